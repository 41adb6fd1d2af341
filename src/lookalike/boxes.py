"""The geometry of boxes: xyxy, x2 and y2 exclusive."""

import numpy as np
from numpy.typing import NDArray


def box_area(boxes: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the areas `(n,)` of `boxes` `(n, 4)`; a box turned inside out has area 0."""
    sides: NDArray[np.floating] = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    return sides[:, 0] * sides[:, 1]


def box_iou(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the intersection over union `(n, m)` of each of `boxes` `(n, 4)` with each of `others` `(m, 4)`."""
    top_left = np.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = np.clip(bottom_right - top_left, 0, None)
    shared = sides[..., 0] * sides[..., 1]
    joint = box_area(boxes)[:, None] + box_area(others)[None, :] - shared
    # Two empty boxes share nothing: 0 rather than 0 / 0.
    iou: NDArray[np.floating] = np.divide(shared, joint, out=np.zeros_like(shared), where=joint > 0)
    return iou
