"""A composed scene is a new photo of an item, where its box says, the same for the same seed."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lookalike.errors import SetupError
from lookalike.scene import FRAME_PX, compose_scene

SEEDS = range(6)


def disc(width: int = 300, height: int = 200) -> Image.Image:
    """A magenta ellipse on a transparent ground: no wall or table has that colour."""
    item = Image.new("RGBA", (width + 80, height + 40))
    ImageDraw.Draw(item).ellipse((40, 20, 40 + width, 20 + height), fill=(255, 0, 255, 255))
    return item


def magenta(photo: Image.Image) -> NDArray[np.bool_]:
    red, green, blue = np.moveaxis(np.asarray(photo).astype(int), -1, 0)
    found: NDArray[np.bool_] = (red - green > 60) & (blue - green > 60)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_the_item_lies_in_its_box(seed: int) -> None:
    photo, box = compose_scene(disc(), None, seed)
    rows, columns = np.nonzero(magenta(photo))
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.subtract(found, box)).max() <= 6  # the lens softens the edge
    assert (photo.mode, photo.size) == ("RGB", FRAME_PX)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [(300, 200), (60, 400), (500, 40), (3, 3)])
def test_the_item_takes_35_to_60_percent_of_the_frame(seed: int, size: tuple[int, int]) -> None:
    _, (x1, y1, x2, y2) = compose_scene(disc(*size), None, seed)
    assert 0 <= x1 < x2 <= FRAME_PX[0]
    assert 0 <= y1 < y2 <= FRAME_PX[1]
    assert 0.35 <= max((x2 - x1) / FRAME_PX[0], (y2 - y1) / FRAME_PX[1]) <= 0.61


def test_a_seed_gives_one_photo_and_another_seed_another() -> None:
    first, again, other = (np.asarray(compose_scene(disc(), None, seed)[0]) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_square_is_turned_by_8_to_20_degrees() -> None:
    for seed in SEEDS:
        photo, (x1, y1, x2, y2) = compose_scene(Image.new("RGB", (300, 300), "magenta"), None, seed)
        # A square turned by t covers 1 / (1 + sin 2t) of its box: 0.78 at 8 degrees, 0.61 at 20.
        assert 0.58 < magenta(photo).sum() / ((x2 - x1) * (y2 - y1)) < 0.81


def test_a_given_background_shows_around_the_item() -> None:
    photo, box = compose_scene(disc(), Image.new("RGB", (300, 500), (20, 120, 30)), 3)
    corner = np.asarray(photo)[:80, :80].reshape(-1, 3).mean(axis=0)
    assert corner[1] > 2 * corner[0]
    assert box[1] > 80


def test_the_item_casts_a_shadow() -> None:
    green = Image.new("RGB", FRAME_PX, (20, 160, 30))
    photo, (x1, _, x2, y2) = compose_scene(disc(), green, 4)
    under = np.asarray(photo)[int(y2) + 2 : int(y2) + 10, int(x1 + x2) // 2 - 20 : int(x1 + x2) // 2 + 20, 1].mean()
    far = np.asarray(photo)[int(y2) + 2 : int(y2) + 10, :40, 1].mean()
    assert under < 0.9 * far


def test_an_item_that_cannot_be_seen_is_refused() -> None:
    with pytest.raises(SetupError, match="no visible pixel"):
        compose_scene(Image.new("RGBA", (50, 50)), None, 1)
