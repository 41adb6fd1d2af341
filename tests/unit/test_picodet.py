"""PicoDet's geometry at any input size, and checkpoints that are not its own."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: it comes with the train extra")

from training.picodet import PicoDet, picodet_state_from_paddle, point_centres  # noqa: E402


def test_points_are_the_centres_of_cells_row_by_row() -> None:
    assert point_centres(2, 3, 8).tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]


@pytest.mark.parametrize(("height", "width", "points"), [(64, 64, 85), (96, 160, 321)])
def test_every_size_that_is_a_multiple_of_32_has_a_box_and_a_score_a_point(
    height: int, width: int, points: int
) -> None:
    with torch.inference_mode():
        boxes, scores = PicoDet(classes=5).eval()(torch.zeros(2, 3, height, width))
    assert boxes.shape == (2, points, 4)
    assert scores.shape == (2, 5, points)
    assert bool((boxes[..., 2:] >= boxes[..., :2]).all())


def test_a_checkpoint_of_another_network_is_refused() -> None:
    tensors = {"conv2d_0.w_0": np.zeros((16, 3, 3, 3), np.float32), "bins": np.arange(8, dtype=np.float32)}
    with pytest.raises(ValueError, match="shorter"):
        picodet_state_from_paddle(tensors)
