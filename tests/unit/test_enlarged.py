"""A small photo that is made a large one shows the same, with detail that only a large photo has."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.unit.image_samples import picture
from training.enlarged import enlarged_jpeg


@pytest.mark.parametrize(("shortest_px", "size"), [(640, (960, 640)), (64, (96, 64))])
def test_the_shortest_edge_is_as_asked_for_and_the_shape_is_kept(shortest_px: int, size: tuple[int, int]) -> None:
    large = Image.open(io.BytesIO(enlarged_jpeg(picture(), shortest_px)))
    assert (large.format, large.size) == ("JPEG", size)


def test_grain_lies_over_the_same_picture() -> None:
    data = enlarged_jpeg(picture(), 640)
    assert data == enlarged_jpeg(picture(), 640)
    large = Image.open(io.BytesIO(data))
    small = np.asarray(large.resize(picture().size, Image.Resampling.BOX)).astype(int)
    assert np.abs(small - np.asarray(picture())).mean() < 2
    assert np.asarray(large.convert("L")).astype(float)[300:316, 400:416].std() > 3
