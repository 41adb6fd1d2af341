"""A small catalogue drawn here, shapes in colours on different grounds: the project tests itself without any data."""

import io
import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

SHAPES = ("disc", "square", "triangle", "ring", "stripes", "cross")
COLOURS = {
    "red": (200, 30, 40),
    "green": (30, 150, 60),
    "blue": (40, 70, 200),
    "yellow": (230, 200, 40),
    "violet": (130, 50, 160),
    "black": (25, 25, 25),
}
SIZE_PX = 320


def draw(shape: str, colour: str, seed: int = 0) -> Image.Image:
    """Return one picture `SIZE_PX` square; `seed` moves the shape and shades the ground."""
    chance = random.Random(f"{shape} {colour} {seed}")
    ground = tuple(chance.randint(200, 245) for _ in range(3))
    picture = Image.new("RGB", (SIZE_PX, SIZE_PX), ground)
    pen, fill = ImageDraw.Draw(picture), COLOURS[colour]
    left, top, edge = chance.randint(30, 80), chance.randint(30, 80), chance.randint(150, 200)
    right, bottom = left + edge, top + edge
    if shape == "disc":
        pen.ellipse((left, top, right, bottom), fill=fill)
    elif shape == "square":
        pen.rectangle((left, top, right, bottom), fill=fill)
    elif shape == "triangle":
        pen.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], fill=fill)
    elif shape == "ring":
        pen.ellipse((left, top, right, bottom), outline=fill, width=edge // 6)
    elif shape == "stripes":
        for at in range(left, right, edge // 5):
            pen.rectangle((at, top, at + edge // 10, bottom), fill=fill)
    else:
        pen.rectangle((left, top + edge // 3, right, bottom - edge // 3), fill=fill)
        pen.rectangle((left + edge // 3, top, right - edge // 3, bottom), fill=fill)
    return picture


def write_catalogue(folder: Path) -> Path:
    """Write every shape in every colour as PNG, and return a JSONL catalogue of them (item_id `disc-red`)."""
    rows = []
    for shape in SHAPES:
        for colour in COLOURS:
            item_id = f"{shape}-{colour}"
            draw(shape, colour).save(folder / f"{item_id}.png")
            title = f"A {colour} {shape}"
            rows.append(
                {"path": f"{item_id}.png", "item_id": item_id, "title": title, "shape": shape, "colour": colour}
            )
    table = folder / "catalogue.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Return an encoded picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
