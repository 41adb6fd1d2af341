"""The losses of the metadata network: against labels, some of them missing, and against a teacher's scores."""

import torch.nn.functional as F
from torch import Tensor

from training.metadata.config import NetworkSettings
from training.metadata.data import IGNORED


def head_loss(logits: Tensor, classes: Tensor, weights: Tensor, settings: NetworkSettings) -> Tensor:
    """Return the mean loss over the rows whose label is known, 0 where none is.

    Cross-entropy, weighted by class and smoothed; `focal_gamma` turns what is already right down: Lin et al. 2017,
    https://arxiv.org/abs/1708.02002.
    """
    known = classes != IGNORED
    if not known.any():
        return logits.sum() * 0
    logits, classes = logits[known], classes[known]
    losses = F.cross_entropy(logits, classes, weights, reduction="none", label_smoothing=settings.label_smoothing)
    if settings.focal_gamma:
        right = logits.softmax(1).gather(1, classes[:, None])[:, 0]
        losses = losses * (1 - right) ** settings.focal_gamma
    return losses.sum() / weights[classes].sum()


def distillation_loss(logits: Tensor, teacher: Tensor, settings: NetworkSettings) -> Tensor:
    """Return the cross-entropy against the teacher's scores `(n, labels)`, both softened; Hinton et al. 2015.

    A row of NaN is one that the teacher has not seen.
    """
    seen = teacher.isfinite().all(dim=1)
    if not seen.any():
        return logits.sum() * 0
    temperature = settings.teacher_temperature
    softened = (teacher[seen].clamp(min=1e-6).log() / temperature).softmax(1)
    return -(softened * (logits[seen] / temperature).log_softmax(1)).sum(1).mean() * temperature**2
