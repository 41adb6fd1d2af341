"""The images that a caller may give, and what is made of them on the client's side."""

import io
import math
import os
from pathlib import Path

from PIL import Image

from lookalike.config import ImageLimits
from lookalike.images import crop_box, decode_image
from lookalike.schemas import Box

ImageLike = bytes | str | os.PathLike[str] | Image.Image
_QUALITY = 90


def encoded(image: ImageLike) -> bytes:
    """Return the encoded image: a file's content, bytes as they are, a PIL image as JPEG.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        return as_jpeg(image)
    return Path(image).read_bytes()


def pixels_of(image: ImageLike) -> Image.Image:
    """Return the image decoded as the service decodes it: upright, RGB.

    Raises:
        ImageTooLarge, UnsupportedImage, CorruptImage: as the service would say.
    """
    return decode_image(encoded(image), ImageLimits()).pixels


def shrunk(image: Image.Image, max_edge_px: int) -> Image.Image:
    """Return the image with its longer side at most `max_edge_px`."""
    small = image.copy()
    small.thumbnail((max_edge_px, max_edge_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return small


def cut(image: Image.Image, box: Box, scale: float) -> tuple[Image.Image, Box]:
    """Return what lies in `box`, given in pixels of a copy `scale` times as large; and the box in the image's own."""
    x1, y1, x2, y2 = (edge / scale for edge in box)
    scaled = (
        max(0, math.floor(x1)),
        max(0, math.floor(y1)),
        min(image.width, math.ceil(x2)),
        min(image.height, math.ceil(y2)),
    )
    return crop_box(image, scaled), scaled


def as_jpeg(image: Image.Image) -> bytes:
    """Return the image as JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
