"""How well a detector's best box covers the subject, and the score below which the whole image serves better."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookalike.boxes import box_iou
from lookalike.evaluation import share_of_misses
from training.detector.data import Stills, still_batches

# Pixels (n, h, w, 3) uint8 -> best box (n, 4) in input pixels and its score (n,).
BestBox = Callable[[Tensor], tuple[Tensor, Tensor]]


class BestBoxes(NamedTuple):
    """The best box of each photo against its subject; IoU is the same in input pixels as in the photo's own."""

    scores: NDArray[np.float64]  # (n,)
    ious: NDArray[np.float64]  # (n,)
    whole_ious: NDArray[np.float64]  # (n,) of the whole image
    sources: NDArray[np.str_]  # (n,)

    def chosen(self, threshold: float) -> NDArray[np.float64]:
        """Return the IoU `(n,)` when a best box below `threshold` gives way to the whole image."""
        return np.where(self.scores >= threshold, self.ious, self.whole_ious)

    def mean_over_sources(self, threshold: float = 0.0) -> float:
        """Return the mean, over sources, of the mean IoU."""
        ious = self.chosen(threshold)
        return float(np.mean([ious[self.sources == source].mean() for source in np.unique(self.sources)]))

    def by_source(self, threshold: float = 0.0) -> dict[str, tuple[float, float]]:
        """Return each source's mean IoU and share of misses."""
        ious = self.chosen(threshold)
        found = {str(source): ious[self.sources == source] for source in np.unique(self.sources)}
        return {source: (float(values.mean()), share_of_misses(values)) for source, values in found.items()}


@torch.no_grad()
def best_boxes(best_box: BestBox, stills: Stills, sources: Sequence[str], batch: int = 16) -> BestBoxes:
    """Measure `best_box` on `stills`, whose sources are `sources`."""
    scores, ious, whole_ious = [], [], []
    for part in still_batches(stills, batch):
        boxes, found = best_box(part.pixels)
        height, width = part.pixels.shape[1:3]
        limits = np.array([width, height] * 2, np.float64)
        for box, subject in zip(boxes.cpu().double().numpy(), part.truth.subjects[:, 0].double().numpy(), strict=True):
            rows = np.array([np.clip(box, 0, limits), [0, 0, width, height]])
            overlap = box_iou(rows, subject[None])[:, 0]
            ious.append(overlap[0])
            whole_ious.append(overlap[1])
        scores.append(found.cpu().double().numpy())
    return BestBoxes(np.concatenate(scores), np.array(ious), np.array(whole_ious), np.array(sources))


def fallback_threshold(found: BestBoxes, step: float = 0.01) -> float:
    """Return the score below which the whole image serves better: the least that gives the best mean over sources."""
    candidates = np.arange(0, 1, step)
    means = np.array([found.mean_over_sources(float(candidate)) for candidate in candidates])
    return float(round(candidates[int(means.argmax())], 4))
