"""Makes a camera's photo of a small one, so that what is done to large JPEGs only can be measured on labelled sets."""

import functools
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_GRAIN = 10  # of 255, as a sensor in a room has it: there must be something above the networks' resolution
_QUALITY = 90


def enlarged_jpeg(image: Image.Image, shortest_px: int) -> bytes:
    """Return `image` (RGB) as a JPEG with `shortest_px` along its shortest edge, grain laid over it."""
    scale = shortest_px / min(image.size)
    large = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    grain = np.resize(_grain(), (large.height, large.width, 1))
    pixels = np.clip(np.asarray(large).astype(np.int16) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


@functools.cache
def _grain() -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-_GRAIN, _GRAIN + 1, 1_000_003, dtype=np.int16)  # no row repeats another
