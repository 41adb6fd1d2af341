"""The golden image that is kept is small, drawn here, and what its program draws."""

import numpy as np

from lookalike.batching import golden_image
from lookalike.config import ImageLimits
from lookalike.golden.draw import SIZE_PX, draw_golden_image
from lookalike.images import decode_image


def test_the_golden_image_is_a_small_jpeg_of_640x480() -> None:
    decoded = decode_image(golden_image(), ImageLimits())
    assert (decoded.info.format, decoded.pixels.size) == ("JPEG", SIZE_PX)
    assert len(golden_image()) < 40_000


def test_the_golden_image_is_what_its_program_draws() -> None:
    kept = np.asarray(decode_image(golden_image(), ImageLimits()).pixels).astype(int)
    assert np.abs(kept - np.asarray(draw_golden_image())).mean() < 4
