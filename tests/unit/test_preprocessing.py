"""An image's geometry on its way into a network, and the way back of its boxes."""

import numpy as np
import pytest
from PIL import Image

from lookalike.preprocessing import Preprocess

LEFT, RIGHT = (250, 0, 0), (0, 0, 250)


def preprocess(resize: str) -> Preprocess:
    return Preprocess(height_px=10, width_px=10, resize=resize, mean=(0, 0, 0), std=(1, 1, 1))


def two_halves(size: tuple[int, int], across: bool) -> Image.Image:
    width, height = size
    image = Image.new("RGB", size, LEFT)
    second = (width // 2, 0, width, height) if across else (0, height // 2, width, height)
    image.paste(RIGHT, second)
    return image


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize(("resize", "colour"), [("left", LEFT), ("right", RIGHT)])
def test_a_side_crop_shows_one_end_of_a_wide_or_a_tall_image(resize, colour, across):
    image = two_halves((80, 40) if across else (40, 80), across)
    middle = preprocess(resize).fit(image)[2:8, 2:8]  # the resampling looks a little beyond the edge of what is seen
    assert (middle == colour).all()


@pytest.mark.parametrize("resize", ["squash", "pad", "left", "right"])
@pytest.mark.parametrize("size", [(1, 1), (16_384, 3), (3, 16_384), (10, 10)])
def test_every_mode_fills_the_input_whatever_the_shape_of_the_image(resize, size):
    assert preprocess(resize).fit(Image.new("RGB", size)).shape == (10, 10, 3)


@pytest.mark.parametrize(
    ("resize", "box"),
    [("squash", (0, 0, 80, 40)), ("pad", (0, 0, 80, 40)), ("left", (0, 0, 40, 40)), ("right", (40, 0, 80, 40))],
)
def test_the_whole_input_is_what_is_seen_of_the_image(resize, box):
    whole = np.array([[0, 0, 10, 10]], np.float32)
    np.testing.assert_allclose(preprocess(resize).unfit_boxes(whole, (80, 40))[0], box)


@pytest.mark.parametrize("size", [(1155, 866), (866, 1155), (4000, 3000), (37, 733), (230, 231)])
def test_resizing_in_two_steps_is_resizing_in_one_but_for_sharpness(size):
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / width * 40 + y / height * k) for k in (3, 11, 29)]
    image = Image.fromarray((128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8))
    wide = preprocess("squash").model_copy(update={"height_px": 100, "width_px": 100})
    exact = np.asarray(image.resize((100, 100), Image.Resampling.BICUBIC)).astype(int)
    # A shift by half of an input pixel gives a mean of 6.
    assert np.abs(wide.fit(image) - exact).mean() < 1
