"""The losses of the metadata network: against labels, some of them missing, and against a teacher's logits."""

import torch.nn.functional as F
from torch import Tensor

from training.metadata.config import NetworkSettings
from training.metadata.data import IGNORED


def head_loss(logits: Tensor, classes: Tensor, weights: Tensor, settings: NetworkSettings) -> Tensor:
    """Return the mean loss over the rows whose label is known, 0 where none is.

    Cross-entropy, weighted by class and smoothed; `focal_gamma` turns what is already right down: Lin et al. 2017,
    https://arxiv.org/abs/1708.02002.
    """
    # Sums over masks, not picked rows: on a GPU, counting rows would wait for it at every head.
    known, safe = classes != IGNORED, classes.clamp(min=0)
    losses = F.cross_entropy(
        logits, classes, weights, ignore_index=IGNORED, reduction="none", label_smoothing=settings.label_smoothing
    )
    if settings.focal_gamma:
        right = logits.softmax(1).gather(1, safe[:, None])[:, 0]
        losses = losses * (1 - right) ** settings.focal_gamma
    return losses.sum() / (weights[safe] * known).sum().clamp(min=1e-12)


def distillation_loss(logits: Tensor, teacher: Tensor, settings: NetworkSettings) -> Tensor:
    """Return the cross-entropy against the teacher's logits `(n, labels)`, both softened; Hinton et al. 2015."""
    temperature = settings.teacher_temperature
    softened = (teacher / temperature).softmax(1)
    return -(softened * (logits / temperature).log_softmax(1)).sum(1).mean() * temperature**2
