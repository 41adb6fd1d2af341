"""Pictures in a grid, each with a line of text: what a report shows of its worst cases."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps

from lookalike.config import ImageLimits
from lookalike.errors import LookalikeError
from lookalike.images import decode_image

_TEXT_PX, _LINES, _GAP = 13, 3, 8


class Cell(NamedTuple):
    """One picture and what is written below it."""

    picture: Image.Image | None
    text: str


def open_picture(path: Path) -> Image.Image | None:
    """Return the image at `path` (RGB), or None when it cannot be read."""
    try:
        return decode_image(path.read_bytes(), ImageLimits()).pixels
    except (OSError, LookalikeError):
        return None


def draw_grid(cells: Sequence[Cell], columns: int, edge_px: int = 200) -> Image.Image:
    """Return the cells row by row, each picture fitted into a square of `edge_px`."""
    height = edge_px + (_TEXT_PX + 3) * _LINES + _GAP
    rows = max(1, -(-len(cells) // columns))
    sheet = Image.new("RGB", (columns * (edge_px + _GAP) + _GAP, rows * height + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_TEXT_PX)
    for i, cell in enumerate(cells):
        left, top = _GAP + (i % columns) * (edge_px + _GAP), _GAP + (i // columns) * height
        if cell.picture is not None:
            sheet.paste(ImageOps.contain(cell.picture, (edge_px, edge_px)), (left, top))
        for number, line in enumerate(textwrap.wrap(cell.text, int(edge_px / 7))[:_LINES]):
            pen.text((left, top + edge_px + 2 + number * (_TEXT_PX + 3)), line, "black", font)
    return sheet
