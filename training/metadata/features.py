"""The embedder's features of many images, computed once: kept in chunks, resumed where a run stopped."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from tqdm import tqdm

from lookalike.config import ImageLimits
from lookalike.embedding import Embedded
from lookalike.errors import LookalikeError
from lookalike.images import decode_image
from lookalike.preprocessing import Preprocess
from training.metadata.data import ImageFiles

View = Literal["plain", "flip", "jitter"]
Floats = NDArray[np.float32]

CHUNK = 512
BATCH = 8  # measured: larger batches are slower an image on two cores


class FeatureSource(Protocol):
    """What is needed of `lookalike.embedding.Embedder`."""

    @property
    def fingerprint(self) -> str:
        """What the features depend on."""

    @property
    def preprocess(self) -> Preprocess:
        """The geometry in front of the network."""

    def embed(self, pixels: NDArray[np.uint8]) -> Embedded:
        """Return embeddings and features of `(n, h, w, 3)` uint8."""


@dataclass(frozen=True)
class ImageSet:
    """Images to be seen in one view; `name` is what the progress bar and the cache call them."""

    name: str
    files: ImageFiles
    images: Sequence[str]
    view: View = "plain"
    max_edge_px: int | None = None  # shrink to this first, so that sharpness does not tell one source from another


@dataclass(frozen=True)
class Features:
    """`(n, feature_dim)` float32 in the order of the set's images; a row of NaN for each image in `bad`."""

    matrix: Floats
    bad: dict[str, str]

    @property
    def good(self) -> NDArray[np.bool_]:
        """`(n,)` bool: which rows hold features."""
        return np.asarray(np.isfinite(self.matrix).all(axis=1))


def extract(images: ImageSet, source: FeatureSource, cache_dir: Path) -> Features:
    """Return the features of all images; what the cache holds for this embedder is read, the rest computed and kept."""
    folder = cache_dir / source.fingerprint / f"{images.name}-{images.view}"
    folder.mkdir(parents=True, exist_ok=True)
    matrices: list[Floats] = []
    bad: dict[str, str] = {}
    with tqdm(total=len(images.images), desc=f"{images.name} {images.view}", unit="image", mininterval=5) as bar:
        for names in _chunks(images.images, CHUNK):
            matrix, wrong = _chunk(images, names, source, folder)
            matrices.append(matrix)
            bad |= wrong
            bar.update(len(names))
    return Features(np.concatenate(matrices), bad)


def _chunks(names: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (names[start : start + size] for start in range(0, len(names), size))


def _chunk(
    images: ImageSet, names: Sequence[str], source: FeatureSource, folder: Path
) -> tuple[Floats, dict[str, str]]:
    key = hashlib.sha256("\n".join([str(images.max_edge_px), *names]).encode()).hexdigest()[:16]
    path = folder / f"{key}.npz"
    if not path.is_file():
        matrix, bad = _compute(images, names, source)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, features=matrix.astype(np.float16), bad=np.array(json.dumps(bad)))
        partial.replace(path)  # a chunk is there whole or not at all
    with np.load(path) as kept:
        return kept["features"].astype(np.float32), json.loads(str(kept["bad"]))


def _compute(images: ImageSet, names: Sequence[str], source: FeatureSource) -> tuple[Floats, dict[str, str]]:
    bad: dict[str, str] = {}
    matrix: Floats | None = None
    for start in range(0, len(names), BATCH):
        batch = range(start, min(start + BATCH, len(names)))
        inputs = {i: _input(images, names[i], source.preprocess, bad) for i in batch}
        readable = {i: pixels for i, pixels in inputs.items() if pixels is not None}
        if not readable:
            continue
        features = source.embed(np.stack(list(readable.values()))).features
        if matrix is None:
            matrix = np.full((len(names), features.shape[1]), np.nan, np.float32)
        matrix[list(readable)] = features
    if matrix is None:
        raise LookalikeError(f"{images.name}: none of {len(names)} images can be read; the first: {bad[names[0]]}")
    return matrix, bad


def _input(images: ImageSet, name: str, preprocess: Preprocess, bad: dict[str, str]) -> NDArray[np.uint8] | None:
    try:
        pixels = decode_image(images.files.read(name), ImageLimits()).pixels
    except (LookalikeError, OSError, KeyError) as error:
        bad[name] = str(error)
        return None
    return preprocess.fit(_view(pixels, images, name))


def _view(pixels: Image.Image, images: ImageSet, name: str) -> Image.Image:
    if images.max_edge_px is not None:
        pixels.thumbnail((images.max_edge_px, images.max_edge_px), Image.Resampling.BICUBIC)
    if images.view == "jitter":
        return _jitter(pixels, random.Random(name))  # by name: the same image gets the same view in every run
    return ImageOps.mirror(pixels) if images.view == "flip" else pixels


def _jitter(pixels: Image.Image, dice: random.Random) -> Image.Image:
    """Return another framing (60 to 110 % of each edge, off centre, white beyond it), light and side; hues stay."""
    width, height = (round(edge * dice.uniform(0.6, 1.1)) for edge in pixels.size)
    left = round((pixels.width - width) * dice.random())
    top = round((pixels.height - height) * dice.random())
    framed = Image.new("RGB", (width, height), "white")
    framed.paste(pixels, (-left, -top))
    lit = ImageEnhance.Brightness(framed).enhance(dice.uniform(0.8, 1.15))
    contrasted = ImageEnhance.Contrast(lit).enhance(dice.uniform(0.8, 1.2))
    return ImageOps.mirror(contrasted) if dice.random() < 0.5 else contrasted
