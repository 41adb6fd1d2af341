"""The figures of the chain on one set: recall with its uncertainty, mean average precision, and how well boxes fit."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookalike.evaluation import mean_average_precision_at_r, recall_at_k, share_of_misses
from training.chain.search import Answer, relevance


class WayFigures(NamedTuple):
    """The figures of one way of choosing what is searched, as shares of the queries."""

    queries: int
    recall_at_1: float
    low: float  # the 95 % interval of recall_at_1
    high: float
    recall_at_5: float
    mean_average_precision: float
    mean_average_precision_at_r: float


class BoxFigures(NamedTuple):
    """How the detector's best box (the whole image where there is none) covers the subject."""

    mean_iou: float
    misses: float


def way_figures(answers: list[Answer], way: str) -> WayFigures:
    """Return the figures of the answers in one way."""
    relevant = relevance(answers, way)
    recall = recall_at_k(relevant, 1)
    low, high = wilson_interval(recall, len(answers))
    return WayFigures(
        queries=len(answers),
        recall_at_1=recall,
        low=low,
        high=high,
        recall_at_5=recall_at_k(relevant, 5),
        mean_average_precision=mean_average_precision(relevant),
        mean_average_precision_at_r=mean_average_precision_at_r(relevant),
    )


def box_figures(answers: Sequence[Answer]) -> BoxFigures | None:
    """Return how well the best boxes fit; None for a set whose boxes are not known."""
    ious = np.array([answer.iou for answer in answers if answer.iou is not None])
    return BoxFigures(float(ious.mean()), share_of_misses(ious)) if len(ious) else None


def mean_average_precision(relevant: NDArray[np.bool_]) -> float:
    """Return mAP of `relevant` `(q, n)` over the whole ranking; a query without relevant items is left out.

    Average precision: the mean over the relevant items of the precision at their rank. With one relevant item it is
    the reciprocal of its rank.
    """
    answerable = relevant[relevant.any(axis=1)]
    if not len(answerable):
        return 0.0
    precision = np.cumsum(answerable, axis=1) / np.arange(1, relevant.shape[1] + 1)
    return float(((precision * answerable).sum(axis=1) / answerable.sum(axis=1)).mean())


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` independent trials; Wilson 1927."""
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, min(share, (centre - spread) / scale)), min(1.0, max(share, (centre + spread) / scale))
