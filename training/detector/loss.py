"""What the subject detector is penalised for: which points answer for a subject, and how wrong score and box are.

Points are assigned as in "TOOD: Task-aligned One-stage Object Detection", https://arxiv.org/abs/2108.07755. Scores
learn by the varifocal loss (https://arxiv.org/abs/2008.13367), boxes by GIoU (https://arxiv.org/abs/1902.09630) and by
the distribution focal loss (https://arxiv.org/abs/2006.04388), weighted as PicoDet's authors do.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from training.detector.config import LossSettings
from training.picodet import DISTANCE_BINS

_NEGATIVE_WEIGHT = 0.75  # the varifocal loss's alpha
_FOCUS = 2.0  # and its gamma
_LEAST_SCORE = 1e-6  # keeps the logarithm finite


class Predictions(NamedTuple):
    """What the network says, before the distances become boxes; `p` points, `n` images."""

    scores: Tensor  # (n, p) in [0, 1]
    logits: Tensor  # (n, p, 4, bins): the distances of left, top, right, bottom in strides
    boxes: Tensor  # (n, p, 4) xyxy in input pixels
    centres: Tensor  # (p, 2)
    strides: Tensor  # (p,)


class Truth(NamedTuple):
    """What is in the images; `present` says which of the padded boxes there are."""

    subjects: Tensor  # (n, g, 4) xyxy in input pixels
    present: Tensor  # (n, g) bool
    ignored: Tensor  # (n, k, 4): neither subject nor background; padded with empty boxes


class Assignment(NamedTuple):
    """Which points answer for which subject, and the score that each should have."""

    positive: Tensor  # (n, p) bool
    subject: Tensor  # (n, p) int64: row in `Truth.subjects`
    score: Tensor  # (n, p): 0 for background


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the intersection over union `(n, g, p)` of `boxes` `(n, g, 4)` with `others` `(n, p, 4)`."""
    low = torch.maximum(boxes[:, :, None, :2], others[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], others[:, None, :, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1) for b in (boxes, others)]
    return shared / (areas[0][:, :, None] + areas[1][:, None, :] - shared).clamp(min=1e-6)


def inside(centres: Tensor, boxes: Tensor) -> Tensor:
    """Return `(n, g, p)` bool: whether each of `centres` `(p, 2)` lies in each of `boxes` `(n, g, 4)`."""
    low = (centres[None, None] > boxes[:, :, None, :2]).all(-1)
    return low & (centres[None, None] < boxes[:, :, None, 2:]).all(-1)


@torch.no_grad()
def assign(predictions: Predictions, truth: Truth, settings: LossSettings) -> Assignment:
    """Give each subject the points inside it that score and locate it best, `score ** alpha * iou ** beta`.

    A point that two subjects want goes to the one that its box covers better. The score a point should have is its
    metric, scaled so that the subject's best point should have its box's IoU.
    """
    iou = pairwise_iou(truth.subjects, predictions.boxes)
    candidates = inside(predictions.centres, truth.subjects) & truth.present[..., None]
    metric = predictions.scores[:, None].float() ** settings.alpha * iou**settings.beta * candidates
    best = metric.topk(min(settings.candidates, metric.shape[-1]), dim=-1).indices
    chosen = torch.zeros_like(candidates).scatter_(-1, best, True) & candidates & (metric > 0)
    wanted = torch.where(chosen, iou, -1.0)
    subject = wanted.argmax(dim=1)
    positive = chosen.any(dim=1)
    chosen &= F.one_hot(subject, iou.shape[1]).transpose(1, 2).bool()
    metric, iou = metric * chosen, iou * chosen
    scale = iou.amax(-1, keepdim=True) / metric.amax(-1, keepdim=True).clamp(min=1e-12)
    return Assignment(positive, subject, (metric * scale).amax(dim=1))


def score_loss(scores: Tensor, wanted: Tensor, counted: Tensor) -> Tensor:
    """Return the varifocal loss, summed over the `counted` points, NaN where a score is; all `(n, p)`."""
    if scores.isnan().any():  # the cross-entropy would stop at it; whoever trains says that the rate is too high
        return scores.sum()
    scores = scores.float().clamp(_LEAST_SCORE, 1 - _LEAST_SCORE)
    weight = torch.where(wanted > 0, wanted, _NEGATIVE_WEIGHT * scores.detach() ** _FOCUS)
    return F.binary_cross_entropy(scores, wanted, weight * counted, reduction="sum")


def distribution_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Return the distribution focal loss `(m,)` of `logits` `(m, 4, bins)` for `distances` `(m, 4)` in strides."""
    distances = distances.clamp(0, DISTANCE_BINS - 1 - 0.01)
    left = distances.long()
    right_part = distances - left
    flat = logits.float().flatten(0, 1)
    low = F.cross_entropy(flat, left.flatten(), reduction="none").view_as(distances)
    high = F.cross_entropy(flat, left.flatten() + 1, reduction="none").view_as(distances)
    return (low * (1 - right_part) + high * right_part).mean(-1)


def detection_loss(predictions: Predictions, truth: Truth, settings: LossSettings) -> dict[str, Tensor]:
    """Return the weighted losses by name; their sum is what is minimised.

    Background points inside an ignored box do not count.
    """
    # Full precision: the cross-entropy of scores refuses autocast on CUDA.
    with torch.autocast(predictions.scores.device.type, enabled=False):
        return _detection_loss(predictions, truth, settings)


def _detection_loss(predictions: Predictions, truth: Truth, settings: LossSettings) -> dict[str, Tensor]:
    found = assign(predictions, truth, settings)
    counted = found.positive | ~inside(predictions.centres, truth.ignored).any(dim=1)
    total = found.score.sum().clamp(min=1.0)
    losses = {"score": settings.score * score_loss(predictions.scores, found.score, counted) / total}
    image, point = found.positive.nonzero(as_tuple=True)
    boxes = truth.subjects[image, found.subject[image, point]]
    weight = found.score[image, point]
    giou = generalized_box_iou_loss(predictions.boxes[image, point].float(), boxes)
    losses["box"] = settings.box * (giou * weight).sum() / total
    centres, strides = predictions.centres[point], predictions.strides[point, None]
    distances = torch.cat([centres - boxes[:, :2], boxes[:, 2:] - centres], dim=1) / strides
    spread = distribution_loss(predictions.logits[image, point], distances)
    losses["distribution"] = settings.distribution * (spread * weight).sum() / total
    return losses
