"""Draws golden.jpg: a striped mug on a table, so that nobody's photo travels with the package.

`python -m lookalike.golden.draw` writes the file anew.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lookalike.scene import compose_scene

SIZE_PX = (640, 480)
SEED = 11

_BODY = (220, 180, 700, 900)  # in a drawing of 1024x1024 px
_RIM_DEPTH = 56


def draw_golden_image() -> Image.Image:
    """Return the golden image, RGB, 640x480 px."""
    photo, _ = compose_scene(_draw_mug(), None, SEED)
    return photo.resize(SIZE_PX, Image.Resampling.LANCZOS)


def _draw_mug() -> Image.Image:
    """Return a mug with a handle, RGBA on a transparent ground."""
    left, top, right, bottom = _BODY
    shape = Image.new("L", (1024, 1024))
    pen = ImageDraw.Draw(shape)
    pen.ellipse((right - 120, top + 150, right + 220, bottom - 180), fill=255)
    pen.ellipse((right - 50, top + 222, right + 148, bottom - 252), fill=0)
    pen.rectangle(_BODY, fill=255)
    pen.ellipse((left, top - _RIM_DEPTH, right, top + _RIM_DEPTH), fill=255)
    pen.ellipse((left, bottom - _RIM_DEPTH, right, bottom + _RIM_DEPTH), fill=255)
    mug = _draw_glaze()
    ImageDraw.Draw(mug).ellipse((left, top - _RIM_DEPTH, right, top + _RIM_DEPTH), fill=(236, 230, 220))
    inner = (left + 22, top - _RIM_DEPTH + 14, right - 22, top + _RIM_DEPTH - 8)
    ImageDraw.Draw(mug).ellipse(inner, fill=(96, 62, 44))
    mug.putalpha(shape.filter(ImageFilter.GaussianBlur(1.5)))
    return mug


def _draw_glaze() -> Image.Image:
    """Return the mug's colours: red with two white bands that follow its curve, lit from the left, shiny."""
    left, top, right, bottom = _BODY
    y, x = np.mgrid[0:1024, 0:1024].astype(np.float32)
    around = np.clip((x - (left + right) / 2) / ((right - left) / 2), -1, 1)
    height = (y - _RIM_DEPTH * np.sqrt(1 - around**2) - top) / (bottom - top)
    banded = (x < right) & ((np.abs(height - 0.30) < 0.045) | (np.abs(height - 0.68) < 0.045))
    glaze = np.where(banded[..., None], np.array((238, 232, 220)), np.array((196, 38, 34)))
    shade = 0.45 + 0.6 * np.sqrt(np.clip(1 - (around + 0.35) ** 2 / 2.2, 0, 1))
    shine = 70 * np.exp(-(((around + 0.45) / 0.09) ** 2))
    return Image.fromarray(np.clip(glaze * shade[..., None] + shine[..., None], 0, 255).astype(np.uint8))


if __name__ == "__main__":
    draw_golden_image().save(Path(__file__).with_name("golden.jpg"), quality=80, optimize=True)
