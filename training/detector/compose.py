"""Renders photos that nobody took, with exact boxes: cut-outs and paintings, warped and shadowed, on backgrounds.

Two scenes: `scatter` lays a subject among smaller things on any background; `wall` hangs a framed painting, large, on a
museum wall, with what else hangs there half outside.
"""

import csv
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from lookalike.errors import SetupError
from lookalike.schemas import Box

_CANVASES = ((480, 360), (360, 480), (420, 420))
_VISIBLE_ALPHA = 64  # fainter pixels are shadow and anti-aliasing, not subject
_WORDS = ("Untitled", "Joan Miro", "Antoni Tapies", "SALE", "2.99", "Portrait", "Oil on canvas", "Galeria", "No. 5")
_WALL = "wall_"


class Scene(StrEnum):
    """What is rendered."""

    SCATTER = "scatter"
    WALL = "wall"


class Kit(NamedTuple):
    """The pieces, decoded."""

    cutouts: list[Image.Image]  # RGBA
    paintings: list[Image.Image]  # RGB
    backgrounds: list[Image.Image]  # RGB
    walls: list[Image.Image]  # RGB, the backgrounds that are museum walls

    @classmethod
    def load(cls, folder: Path, held_out: set[str], on_bad: Callable[[str], None]) -> Self:
        """Decode the kit in `folder`, but for backgrounds cut from a photo whose name is in `held_out`.

        `on_bad` is told of each piece that cannot be read, with file and line; it raises, or the piece is left out.

        Raises:
            SetupError: when kit.csv is missing, or nothing of one kind is left.
        """
        table = folder / "kit.csv"
        if not table.exists():
            raise SetupError(f"there is no {table}: set LOOKALIKE_DATA to the folder that holds autocrop/kit")
        kit = cls([], [], [], [])
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            for row in reader:
                if any(name in row["file"] for name in held_out):
                    continue
                try:
                    kit._add(row["kind"], folder / row["file"])
                except (OSError, ValueError) as error:
                    on_bad(f"{table}:{reader.line_num}: {row['file']}: {error}")
        for kind in ("cutouts", "paintings", "backgrounds"):
            if not getattr(kit, kind):
                raise SetupError(f"{table} lists no {kind} that can be used")
        return kit

    def _add(self, kind: str, path: Path) -> None:
        mode = "RGBA" if kind == "cutout" else "RGB"
        image = Image.open(path).convert(mode)
        image.thumbnail((640, 640))
        if kind == "cutout":
            solid = image.getchannel("A").point(lambda alpha: 255 * (alpha > _VISIBLE_ALPHA)).getbbox()
            if solid is None:
                raise ValueError("nothing in it is visible")
            self.cutouts.append(image.crop(solid))
        elif kind == "painting":
            self.paintings.append(image)
        elif kind == "background":
            (self.walls if path.name.startswith(_WALL) else self.backgrounds).append(image)
        else:
            raise ValueError(f"kind {kind!r} is not cutout, painting or background")


def render(kit: Kit, scene: Scene, generator: np.random.Generator) -> tuple[Image.Image, Box]:
    """Return a rendered photo (RGB) and the box of its subject, frame included."""
    if scene is Scene.WALL:
        return _render_wall(kit, generator)
    return _render_scatter(kit, generator)


def _render_scatter(kit: Kit, generator: np.random.Generator) -> tuple[Image.Image, Box]:
    canvas = _ground([*kit.backgrounds, *kit.walls], generator)
    edge = float(np.sqrt(canvas.width * canvas.height * generator.uniform(0.03, 0.35)))
    for _ in range(int(generator.integers(1, 3)) if generator.random() < 0.25 else 0):
        piece = _sized(_cutout(kit, generator), edge * generator.uniform(0.2, 0.45))
        _paste(canvas, piece, _anywhere(canvas, piece, generator), generator)
    painted = generator.random() < 0.4
    piece = _framed(_pick(kit.paintings, generator), generator) if painted else _cutout(kit, generator)
    piece = _warped(_sized(piece, edge), 0.12 if painted else 0.05, generator)
    piece = piece.rotate(generator.normal(0, 12), Image.Resampling.BICUBIC, expand=True)
    piece.thumbnail((int(canvas.width * 0.95), int(canvas.height * 0.95)))
    box = _paste(canvas, piece, _anywhere(canvas, piece, generator), generator)
    if generator.random() < 0.15:
        _write(canvas, (box[0] + (box[2] - box[0]) * 0.2, (box[1] + box[3]) / 2), generator)
    return canvas, box


def _render_wall(kit: Kit, generator: np.random.Generator) -> tuple[Image.Image, Box]:
    canvas = _ground(kit.walls, generator) if kit.walls and generator.random() < 0.6 else _plain_wall(generator)
    share = generator.uniform(0.45, 0.97, 2)
    painting = _framed(_pick(kit.paintings, generator), generator)
    size = (int(canvas.width * share[0]), int(canvas.height * share[1]))
    piece = _warped(painting.resize(size, Image.Resampling.BILINEAR), 0.05, generator)
    piece = piece.rotate(generator.normal(0, 2), Image.Resampling.BICUBIC, expand=True)
    piece.thumbnail(canvas.size)
    free = np.array(canvas.size) - piece.size
    corner = np.clip(free * generator.normal(0.5, 0.2, 2), 0, np.maximum(free, 0)).astype(int)
    margin = int(corner[0])
    if margin > 60 and generator.random() < 0.4:
        neighbour = _sized(_framed(_pick(kit.paintings, generator), generator), margin * 1.2)
        _paste(canvas, neighbour, (margin - 20 - neighbour.width, int(corner[1] + free[1] * 0.3)), generator)
    box = _paste(canvas, piece, (int(corner[0]), int(corner[1])), generator)
    if generator.random() < 0.4:
        _write(canvas, (box[0] + 10, box[3] - 40 * generator.random() - 10), generator)
    return canvas, box


def _pick(images: list[Image.Image], generator: np.random.Generator) -> Image.Image:
    return images[int(generator.integers(len(images)))]


def _cutout(kit: Kit, generator: np.random.Generator) -> Image.Image:
    image = _pick(kit.cutouts, generator)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else image


def _ground(images: list[Image.Image], generator: np.random.Generator) -> Image.Image:
    """Return a canvas filled by a random part of a background."""
    size = _CANVASES[int(generator.integers(len(_CANVASES)))]
    image = _pick(images, generator)
    part = generator.uniform(0.5, 1, 2) * image.size
    left, top = (generator.random(2) * (image.size - part)).tolist()
    image = image.resize(size, Image.Resampling.BILINEAR, (left, top, left + part[0], top + part[1]))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else image.copy()


def _plain_wall(generator: np.random.Generator) -> Image.Image:
    """Return a wall of one colour under uneven light."""
    width, height = _CANVASES[int(generator.integers(len(_CANVASES)))]
    colour = generator.uniform(90, 235) + generator.normal(0, 12, 3)
    slope = generator.normal(0, 25, 2)
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    light = slope[0] * x + slope[1] * y
    pixels = colour + light[..., None] + generator.normal(0, 3, (height, width, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _framed(painting: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Return `painting` (RGBA) with a frame of one or two bands, a mat, or neither."""
    edge = min(painting.size)
    image = painting
    for _ in range(int(generator.integers(0, 3))):
        band = int(edge * generator.uniform(0.02, 0.1))
        wood = generator.random() < 0.6
        colour = (generator.uniform(15, 150) * np.array([1.0, 0.8, 0.55])) if wood else generator.uniform(0, 255, 3)
        grown = Image.new("RGB", (image.width + 2 * band, image.height + 2 * band), tuple(colour.astype(int).tolist()))
        grown.paste(image, (band, band))
        image = grown
    return image.convert("RGBA")


def _sized(piece: Image.Image, edge: float) -> Image.Image:
    """Return `piece` with an area of about `edge` squared."""
    scale = edge / np.sqrt(piece.width * piece.height)
    size = (max(8, round(piece.width * scale)), max(8, round(piece.height * scale)))
    return piece.resize(size, Image.Resampling.BILINEAR)


def _warped(piece: Image.Image, strength: float, generator: np.random.Generator) -> Image.Image:
    """Return `piece` (RGBA) seen from the side: each corner moves inwards by up to `strength` of the edges."""
    width, height = piece.size
    inwards = generator.random((4, 2)) * strength * (width, height)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], float)
    target = corners + inwards * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    coefficients = perspective(target, corners)
    return piece.transform(piece.size, Image.Transform.PERSPECTIVE, coefficients.tolist(), Image.Resampling.BICUBIC)


def perspective(points: NDArray[np.float64], images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 8 coefficients of the projective map that takes four `points` `(4, 2)` to their `images` `(4, 2)`."""
    rows = []
    for (x, y), (u, v) in zip(points, images, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return np.linalg.solve(np.array(rows), images.flatten())


def _anywhere(canvas: Image.Image, piece: Image.Image, generator: np.random.Generator) -> tuple[int, int]:
    x, y = (np.maximum(np.array(canvas.size) - piece.size, 1) * generator.random(2)).astype(int).tolist()
    return x, y


def _paste(canvas: Image.Image, piece: Image.Image, corner: tuple[int, int], generator: np.random.Generator) -> Box:
    """Paste `piece` (RGBA) with a shadow; return the box of its visible pixels, clipped to the canvas."""
    alpha = piece.getchannel("A")
    if generator.random() < 0.7:
        shift = generator.normal(0, 0.02, 2) * piece.width + 2
        shadow = alpha.filter(ImageFilter.GaussianBlur(float(generator.uniform(1, 6))))
        strength = generator.uniform(0.15, 0.6)
        shadow = shadow.point(lambda value: int(value * strength))
        canvas.paste((0, 0, 0), (corner[0] + int(shift[0]), corner[1] + int(shift[1])), shadow)
    canvas.paste(piece.convert("RGB"), corner, alpha)
    solid = alpha.point(lambda value: 255 * (value > _VISIBLE_ALPHA)).getbbox() or (0, 0, *piece.size)
    x1, y1, x2, y2 = (edge + corner[row % 2] for row, edge in enumerate(solid))
    return max(0.0, x1), max(0.0, y1), min(float(canvas.width), x2), min(float(canvas.height), y2)


def _write(canvas: Image.Image, corner: tuple[float, float], generator: np.random.Generator) -> None:
    """Print a word over the picture, on a plate or not."""
    word = _WORDS[int(generator.integers(len(_WORDS)))]
    draw = ImageDraw.Draw(canvas)
    size = float(generator.uniform(12, 28))
    plate = draw.textbbox(corner, word, font_size=size)
    dark = generator.random() < 0.5
    if generator.random() < 0.6:
        draw.rectangle(plate, fill="white" if dark else "black")
    draw.text(corner, word, fill="black" if dark else "white", font_size=size)
