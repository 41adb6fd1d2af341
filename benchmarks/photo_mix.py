"""Composes the default photos: real cut-outs in scenes, at the sizes and in the formats that clients send."""

import io
import os
import random
import shutil
import tempfile
from bisect import bisect_right
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pillow_heif
from PIL import Image
from pydantic import BaseModel, Field

from benchmarks.private_server import ROOT
from lookalike.errors import SetupError
from lookalike.scene import compose_scene
from training.configuration import read_config

MIX_FILE = Path(__file__).with_name("photos.yaml")
STAMPS = Path("/usr/share/tuxpaint/stamps")
CACHE = ROOT / "var/bench/photos"
_QUALITIES = range(30, 99)
_GRAIN = 2  # of 255: the sensor's noise at full size, without which a large photo would compress like a small one
_SIDEWAYS = 6  # the EXIF orientation of a phone held upright
_ORIENTATION_TAG = 0x0112

Format = Literal["JPEG", "PNG", "WEBP", "HEIC"]


class PhotoKind(BaseModel, extra="forbid", frozen=True):
    """Photos of one size and format, and how often clients send them."""

    name: Annotated[str, Field(pattern=r"^[a-z]+(-[a-z]+)*$")]
    format: Format
    megapixels: Annotated[float, Field(gt=0, le=60)]
    kilobytes: Annotated[int, Field(gt=0)] | None = None  # the quality is chosen to come near it
    quality: Annotated[int, Field(ge=1, le=100)] = 90  # where no kilobytes are given
    weight: Annotated[float, Field(gt=0)]
    sideways: bool = False


class PhotoMix(BaseModel, extra="forbid", frozen=True):
    """All kinds."""

    photos_of_each: Annotated[int, Field(ge=1)]
    kinds: Annotated[list[PhotoKind], Field(min_length=1)]


class Cuttings(NamedTuple):
    """What scenes are composed of; without a background a room is drawn."""

    said: str
    items: list[Path]
    backgrounds: list[Path]

    @classmethod
    def find(cls) -> "Cuttings":
        """Return the cut-outs and backgrounds of the project's data if they are there, else Debian's stamps.

        Raises:
            SetupError: when there is neither.
        """
        kit = Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")) / "autocrop/kit"
        if kit.is_dir():
            said = "cut-outs of real objects on real backgrounds (autocrop/kit of LOOKALIKE_DATA)"
            return cls(said, _files(kit / "cutouts"), _files(kit / "backgrounds"))
        stamps = sorted(STAMPS.rglob("*.png"), key=lambda path: path.stat().st_size)
        if not stamps:
            raise SetupError(
                f"no photos: {kit} and {STAMPS} are not there", allowed="--photos DIR, or `make catalogue`"
            )
        # The largest files are photographs; many of the others are drawings.
        return cls("Debian's tuxpaint stamps in drawn rooms", stamps[-200:], [])

    def scene(self, seed: int) -> Image.Image:
        """Return one scene, about 1 MP."""
        choose = random.Random(seed)
        background = Image.open(choose.choice(self.backgrounds)) if self.backgrounds else None
        with Image.open(choose.choice(self.items)) as item:
            return compose_scene(item.convert("RGBA"), background, seed)[0]


def read_mix() -> PhotoMix:
    """Return the mix of `photos.yaml`."""
    return read_config(MIX_FILE, PhotoMix)


def default_photos() -> tuple[Path, str]:
    """Return the folder of the default photos, composed on the first call and kept, and what they are.

    Raises:
        SetupError: when there is nothing to compose them of.
    """
    mix, cuttings = read_mix(), Cuttings.find()
    recipe = MIX_FILE.read_bytes() + Path(__file__).read_bytes() + cuttings.said.encode()
    folder = CACHE / sha256(recipe).hexdigest()[:12]
    if not folder.is_dir():
        _compose_all(mix, cuttings, folder)
    return folder, f"the default mix of {MIX_FILE.name}, composed of {cuttings.said}"


def _compose_all(mix: PhotoMix, cuttings: Cuttings, folder: Path) -> None:
    print(f"composing {len(mix.kinds) * mix.photos_of_each} photos in {folder} (once)", flush=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=CACHE))
    try:
        for i, kind in enumerate(mix.kinds):
            for number in range(mix.photos_of_each):
                photo = encode_photo(cuttings.scene(seed=100 * i + number), kind)
                (partial / f"{kind.name}-{number}.{kind.format.lower()}").write_bytes(photo)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def encode_photo(scene: Image.Image, kind: PhotoKind) -> bytes:
    """Return the scene as a camera of that many megapixels would have written it: enlarged, with grain, compressed."""
    scale = (kind.megapixels * 1e6 / (scene.width * scene.height)) ** 0.5
    size = (round(scene.width * scale), round(scene.height * scale))
    pixels = np.asarray(scene.resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    grain = np.random.default_rng(0).standard_normal((size[1], size[0], 1), dtype=np.float32) * _GRAIN
    image = Image.fromarray(np.clip(np.rint(pixels + grain), 0, 255).astype(np.uint8))
    quality = kind.quality
    if kind.kilobytes is not None:
        allowed = bisect_right(
            _QUALITIES, kind.kilobytes * 1000, key=lambda quality: len(_encode(image, kind, quality))
        )
        quality = _QUALITIES[max(0, allowed - 1)]
    return _encode(image, kind, quality)


def _encode(image: Image.Image, kind: PhotoKind, quality: int) -> bytes:
    exif = Image.Exif()
    if kind.sideways:
        image, exif[_ORIENTATION_TAG] = image.transpose(Image.Transpose.ROTATE_90), _SIDEWAYS
    buffer = io.BytesIO()
    if kind.format == "HEIC":
        # Without the preset one photo of 12 MP takes half a minute.
        pillow_heif.from_pillow(image).save(buffer, quality=quality, enc_params={"preset": "ultrafast"})
    else:
        image.save(buffer, kind.format, quality=quality, exif=exif)
    return buffer.getvalue()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())
