"""A query photo is composed here: an item put into a drawn room, turned, relit, and seen through a sensor."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from lookalike.errors import SetupError
from lookalike.schemas import Box

FRAME_PX = (1152, 864)  # 1 MP, as phones send it when a page shrinks the photo first

Light = NDArray[np.floating[Any]]  # (h, w, 3) in [0, 1]

_WALLS = ((0.72, 0.68, 0.61), (0.62, 0.66, 0.68), (0.70, 0.62, 0.55), (0.58, 0.62, 0.56), (0.76, 0.74, 0.71))
_WOODS = ((0.50, 0.34, 0.21), (0.38, 0.25, 0.17), (0.62, 0.48, 0.33), (0.45, 0.36, 0.29))
_SOLID = 32  # of 255: alpha above which a pixel belongs to the item's box


class _Lamp(NamedTuple):
    """Where light comes from and its colour: `side` is -1 for the left and 1 for the right."""

    side: int
    strength: float
    warmth: float


def compose_scene(item: Image.Image, background: Image.Image | None, seed: int) -> tuple[Image.Image, Box]:
    """Return a photo (RGB, about 1 MP) with `item` in it, and the item's box in the photo's pixels.

    The item (RGBA or RGB) takes 35-60 % of the frame, turned by 8-20 degrees. The same seed gives the same photo.
    Without a background, a wall and a table are drawn.

    Raises:
        SetupError: the item is transparent all over.
    """
    rng = np.random.default_rng(seed)
    lamp = _Lamp(int(rng.choice((-1, 1))), float(rng.uniform(0.25, 0.45)), float(rng.uniform(-0.05, 0.09)))
    scene = _draw_room(rng) if background is None else _as_light(ImageOps.fit(background.convert("RGB"), FRAME_PX))
    placed = _place(_turn(item.convert("RGBA"), rng), rng)
    alpha = placed.getchannel("A")
    box = alpha.point(lambda level: 255 * (level > _SOLID)).getbbox()
    if box is None:
        raise SetupError("the item has no visible pixel")
    scene = _cast_shadow(scene, alpha, box, lamp)
    cover = np.asarray(alpha, dtype=np.float32)[..., None] / 255
    scene += cover * (_relit(_as_light(placed.convert("RGB")), box, lamp, rng) - scene)
    return _photograph(scene, lamp, rng), (float(box[0]), float(box[1]), float(box[2]), float(box[3]))


def _as_light(image: Image.Image) -> Light:
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _as_image(light: Light) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8))


def _noise(rng: np.random.Generator, size: tuple[int, int], *layers: tuple[float, tuple[float, float]]) -> Light:
    """Return smooth noise `(h, w)` of mean 0: layers of a deviation and of blots of about (w, h) px."""
    noise: Light = np.zeros((size[1], size[0]), np.float32)
    for deviation, (width, height) in layers:
        grid = (max(2, round(size[1] / height)), max(2, round(size[0] / width)))
        coarse = Image.fromarray(rng.standard_normal(grid, dtype=np.float32))
        noise += deviation * np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))
    return noise


def _draw_room(rng: np.random.Generator) -> Light:
    """Return a plaster wall above a wooden table, both a little out of focus."""
    width, height = FRAME_PX
    edge = int(height * rng.uniform(0.56, 0.66))
    room = np.concatenate([_draw_wall(rng, (width, edge)), _draw_table(rng, (width, height - edge))])
    rows = np.arange(height, dtype=np.float32)[:, None, None]
    room *= 1 - 0.35 * np.exp(-np.abs(rows - edge) / 14)  # light hardly reaches the corner between the two
    return _as_light(_as_image(room).filter(ImageFilter.GaussianBlur(2.2)))


def _draw_wall(rng: np.random.Generator, size: tuple[int, int]) -> Light:
    paint = np.array(_WALLS[rng.integers(len(_WALLS))], np.float32)
    plaster = _noise(rng, size, (0.020, (190, 150)), (0.012, (24, 20)), (0.020, (4, 4)))
    wall: Light = paint * (1 + plaster[..., None])
    return wall


def _draw_table(rng: np.random.Generator, size: tuple[int, int]) -> Light:
    height = size[1]
    wood = np.array(_WOODS[rng.integers(len(_WOODS))], np.float32)
    near = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    grain = _noise(rng, size, (0.10, (420, 9)), (0.06, (160, 3)), (0.05, (500, 60)))
    # Boards lie across the view; seen at a slant, the far ones are narrower.
    board = 3.2 / (0.32 + near) + rng.uniform(0, 1)
    joint_px = np.abs(board - np.round(board)) / np.abs(np.gradient(board, axis=0))
    joint = np.exp(-((joint_px / 1.6) ** 2))
    tone = 0.08 * rng.standard_normal(16, dtype=np.float32)[np.floor(board + 0.5).astype(int)]
    light = (0.78 + 0.3 * near) * (1 + grain + tone) * (1 - 0.5 * joint)
    table: Light = wood * light[..., None]
    return table


def _turn(item: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the visible part of `item`, turned by 8-20 degrees either way and scaled for the frame."""
    item = item.crop(item.getchannel("A").getbbox())
    degrees = float(rng.choice((-1, 1)) * rng.uniform(8, 20))
    share = rng.uniform(0.45, 0.60)
    turn = math.radians(abs(degrees))
    turned = (
        item.width * math.cos(turn) + item.height * math.sin(turn),
        item.width * math.sin(turn) + item.height * math.cos(turn),
    )
    scale = share * min(FRAME_PX[0] / turned[0], FRAME_PX[1] / turned[1])
    size = (max(1, round(item.width * scale)), max(1, round(item.height * scale)))
    return item.resize(size, Image.Resampling.LANCZOS).rotate(degrees, Image.Resampling.BICUBIC, expand=True)


def _place(item: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a transparent frame with `item` near its middle, resting on the table."""
    width, height = FRAME_PX
    frame = Image.new("RGBA", FRAME_PX)
    left = round((width - item.width) * rng.uniform(0.3, 0.7))
    bottom = height * rng.uniform(0.82, 0.92)
    frame.paste(item, (left, max(0, round(bottom - item.height))))
    return frame


def _cast_shadow(scene: Light, alpha: Image.Image, box: tuple[int, int, int, int], lamp: _Lamp) -> Light:
    """Darken `scene` behind the item: a long soft shadow away from the lamp, and a dark one where it stands."""
    foot, reach = box[3], box[3] - box[1]
    flat, lean = 2.6, -lamp.side * 0.85
    # The inverse map of "squash towards the foot and lean away": output (x, y) -> input.
    lying = (1, lean * flat, -lean * flat * foot, 0, flat, foot - flat * foot)
    long = alpha.transform(alpha.size, Image.Transform.AFFINE, lying, Image.Resampling.BILINEAR)
    near = (1, 0, 0, 0, 9.0, foot - 9.0 * (foot + 0.012 * reach))
    contact = alpha.transform(alpha.size, Image.Transform.AFFINE, near, Image.Resampling.BILINEAR)
    halo = alpha.transform(alpha.size, Image.Transform.AFFINE, (1, 0, lamp.side * 14, 0, 1, -8))
    darkness: Light = np.zeros((alpha.height, alpha.width, 1), np.float32)
    for shade, blur_px, depth in ((long, 16, 0.42), (contact, 8, 0.55), (halo, 30, 0.22)):
        soft = np.asarray(shade.filter(ImageFilter.GaussianBlur(blur_px)), dtype=np.float32)[..., None] / 255
        darkness = 1 - (1 - darkness) * (1 - depth * soft)
    return scene * (1 - darkness)


def _relit(item: Light, box: tuple[int, int, int, int], lamp: _Lamp, rng: np.random.Generator) -> Light:
    """Return the item under the lamp: brighter and warmer towards it, with other contrast than in the catalogue."""
    columns = np.arange(item.shape[1], dtype=np.float32)[None, :, None]
    towards = np.clip((columns - (box[0] + box[2]) / 2) / (box[2] - box[0]) * lamp.side, -0.5, 0.5)
    gain = rng.uniform(0.86, 1.02) * (1 + lamp.strength * towards)
    tint = np.array((1 + lamp.warmth, 1, 1 - lamp.warmth), np.float32) ** (1 + towards)
    return ((item - 0.5) * np.float32(rng.uniform(0.82, 0.96)) + 0.5) * gain * tint


def _photograph(scene: Light, lamp: _Lamp, rng: np.random.Generator) -> Image.Image:
    """Return what a camera makes of the scene: light falls off, the lens softens, the sensor adds noise."""
    width, height = FRAME_PX
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    scene = scene * (1 + 0.16 * lamp.side * x - 0.05 * y) * (1.04 - 0.16 * (x**2 + y**2) / 2)
    scene = scene * np.array((1 + lamp.warmth / 2, 1, 1 - lamp.warmth / 2), np.float32)
    soft = _as_light(_as_image(scene).filter(ImageFilter.GaussianBlur(float(rng.uniform(0.6, 1.1)))))
    grain = rng.standard_normal((height, width, 1), dtype=np.float32) + 0.5 * rng.standard_normal(
        (height, width, 3), dtype=np.float32
    )
    return _as_image(soft + grain * (0.010 + 0.010 * np.sqrt(soft)))
