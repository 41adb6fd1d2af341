"""A small real embedder, by the colours of an image's parts, and small images that it tells apart."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike.catalogue import Catalogue, Item

GRID = 4


class ColourEmbedder:
    """Embeds an image by the mean colour of each field of a 4 x 4 grid; it counts what it embeds."""

    name, dim = "colours", GRID * GRID * 3

    def __init__(self, fingerprint: str = "c010c010c010c010", preparation: str = "whole image") -> None:
        self.fingerprint, self.preparation = fingerprint, preparation
        self.embedded = 0

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        return np.asarray(image.resize((GRID, GRID), Image.Resampling.BOX))

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.embedded += len(pixels)
        flat = pixels.reshape(len(pixels), -1).astype(np.float32) / 127.5 - 1
        return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True), dtype=np.float32)


def save_picture(path: Path, seed: int) -> Path:
    """Write a PNG of random fields that differs for each seed."""
    fields = np.random.default_rng(seed).integers(0, 256, (GRID, GRID, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(fields).resize((16, 16), Image.Resampling.NEAREST).save(path)
    return path


def catalogue_of(folder: Path, count: int, first: int = 0) -> Catalogue:
    """Write `count` pictures and return them as a catalogue with the attributes `parity` and `tenth`."""
    items = [
        Item(
            item_id=f"item-{number}",
            path=save_picture(folder / f"{number}.png", number),
            title=f"Number {number}",
            attributes={"parity": "odd" if number % 2 else "even", "tenth": str(number % 10)},
        )
        for number in range(first, first + count)
    ]
    return Catalogue(folder, items)
