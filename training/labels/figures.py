"""How good a task's scores are: accuracy, macro-F1, loss, calibration, and what is sure."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.metadata.report import expected_calibration_error, macro_f1

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]


class Figures(NamedTuple):
    """The figures of some images, as shares of them (`log_loss` in nats)."""

    images: int
    accuracy: float
    macro_f1: float
    log_loss: float
    ece: float
    sure: float
    accuracy_when_sure: float


def figures_of(scores: Floats, classes: Numbers, threshold: float) -> Figures:
    """Return the figures of `scores` `(n, labels)` against `classes` `(n,)`."""
    best, confidence = scores.argmax(axis=1), scores.max(axis=1)
    right, sure = best == classes, confidence >= threshold
    of_truth = np.clip(scores[np.arange(len(classes)), classes], 1e-7, 1)
    return Figures(
        images=len(classes),
        accuracy=float(right.mean()),
        macro_f1=macro_f1(best, classes),
        log_loss=float(-np.log(of_truth).mean()),
        ece=expected_calibration_error(confidence, right),
        sure=float(sure.mean()),
        accuracy_when_sure=float(right[sure].mean()) if sure.any() else float("nan"),
    )


def figures_table(rows: dict[str, Figures]) -> str:
    """Return the figures as a Markdown table, one line a name."""
    lines = [
        "| images | n | accuracy | macro-F1 | log loss | ECE | sure | accuracy when sure |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, f in rows.items():
        lines.append(f"| {name} | {f.images} | " + " | ".join(f"{figure:.3f}" for figure in f[1:]) + " |")
    return "\n".join(lines)
