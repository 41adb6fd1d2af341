"""The photos that the benchmarks send, each with what a two-trip client makes of it: a small copy, and a crop."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from random import Random

from PIL import Image

from benchmarks.photo_mix import default_photos, read_mix
from lookalike.catalogue import IMAGE_SUFFIXES
from lookalike.config import ImageLimits
from lookalike.errors import LookalikeError, SetupError
from lookalike.images import crop_box, decode_image
from lookalike.schemas import Box

SMALL_EDGE_PX = 640  # what docs/api.md tells two-trip clients to send first
CROP_EDGE_PX = 448  # a crop needs no more: twice the edge of what the embedder sees


@dataclass(frozen=True, eq=False)
class Photo:
    """One encoded photo; `kind` says what figures are grouped by."""

    kind: str
    data: bytes
    content_type: str
    weight: float = 1.0

    @cached_property
    def small(self) -> bytes:
        """The copy that a client on a slow line sends to the detector."""
        return _jpeg(self._pixels(), SMALL_EDGE_PX)

    @lru_cache(maxsize=1000)  # noqa: B019  the photos live as long as the process
    def crop(self, box: Box | None) -> bytes:
        """Return the crop at `box` (in pixels of the small copy; None: all), cut from the original, as JPEG.

        Kept: the same box comes again and again, and a client's own work must not take time from the server's.
        """
        pixels = self._pixels()
        if box is None:
            return _jpeg(pixels, CROP_EDGE_PX)
        scale = max(1.0, max(pixels.size) / SMALL_EDGE_PX)
        x1, y1, x2, y2 = (edge * scale for edge in box)
        return _jpeg(crop_box(pixels, (x1, y1, x2, y2)), CROP_EDGE_PX)

    def _pixels(self) -> Image.Image:
        return decode_image(self.data, ImageLimits()).pixels


def load_photos(folder: Path) -> list[Photo]:
    """Return the photos in `folder`, checked; those of a kind in photos.yaml with its weight, all others with 1.

    Raises:
        SetupError: there are none, or one cannot be read.
    """
    if not folder.is_dir():
        raise SetupError(f"{folder} is not a folder", allowed="--photos: a folder of images")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise SetupError(f"{folder} holds no photos", allowed=sorted(IMAGE_SUFFIXES))
    weights = {kind.name: kind.weight for kind in read_mix().kinds}
    return [_load(path, weights) for path in paths]


def _load(path: Path, weights: dict[str, float]) -> Photo:
    data = path.read_bytes()
    try:
        info = decode_image(data, ImageLimits()).info
    except LookalikeError as error:
        raise SetupError(f"{path}: {error.message}") from error
    kind = path.stem.rpartition("-")[0]
    content_type = f"image/{info.format.lower()}"
    if kind in weights:
        return Photo(kind, data, content_type, weights[kind])
    return Photo(f"{info.format} {info.width * info.height / 1e6:.0f} MP", data, content_type)


def photos_for(folder: Path | None) -> tuple[Path, str]:
    """Return the folder to send photos of, the default mix where none is named, and what they are."""
    return (folder, str(folder.resolve())) if folder else default_photos()


def pick(photos: Sequence[Photo], random: Random) -> Photo:
    """Return one photo at random, by weight."""
    return random.choices(photos, [photo.weight for photo in photos])[0]


def _jpeg(image: Image.Image, edge_px: int) -> bytes:
    small = image.copy()
    small.thumbnail((edge_px, edge_px), Image.Resampling.BICUBIC, reducing_gap=3.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
