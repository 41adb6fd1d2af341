"""How good the metadata heads are, attribute by attribute, measured through the very code that serves them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from lookalike.attributes import Describer
from training.metadata.data import Row, class_numbers

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]
BINS = 15


class Figures(NamedTuple):
    """The figures of one attribute, as shares of the rows whose label is known (`rows`)."""

    rows: int
    accuracy: float  # a label that the heads do not have counts as wrong
    macro_f1: float
    top_3: float
    ece: float
    sure: float  # share of rows that are sure
    accuracy_when_sure: float


class Score(NamedTuple):
    """Of one attribute on one split, as shares of the rows whose label is known."""

    accuracy: float
    macro_f1: float


def score_of(guessed: Numbers, classes: Numbers) -> Score:
    """Return the score of `(n,)` guesses against `(n,)` class numbers; a label without a head counts as wrong."""
    return Score(float((guessed == classes).mean()), macro_f1(guessed, classes))


def measure(describer: Describer, rows: Sequence[Row], features: Floats) -> dict[str, Figures]:
    """Return the figures of each attribute that the rows know; `features` is `(n, feature_dim)`, unscaled."""
    scores, passed = describer.scores(features), describer.known(features)
    classes = class_numbers(rows, describer.labels())
    figures = {}
    for card in describer.card.attributes:
        labelled = np.array([bool(row.values.get(card.name)) for row in rows])
        if labelled.any():
            sure = passed[labelled] & (scores[card.name][labelled].max(axis=1) >= card.threshold)
            figures[card.name] = attribute_figures(scores[card.name][labelled], classes[card.name][labelled], sure)
    return figures


def attribute_figures(scores: Floats, classes: Numbers, sure: NDArray[np.bool_]) -> Figures:
    """Return the figures of `(n, labels)` scores against `(n,)` class numbers; `IGNORED` is a label without a head."""
    guessed, confidence = scores.argmax(axis=1), scores.max(axis=1)
    right = guessed == classes
    best = np.argsort(-scores, axis=1)[:, :3]
    return Figures(
        rows=len(classes),
        accuracy=float(right.mean()),
        macro_f1=macro_f1(guessed, classes),
        top_3=float((best == classes[:, None]).any(axis=1).mean()),
        ece=expected_calibration_error(confidence, right),
        sure=float(sure.mean()),
        accuracy_when_sure=float(right[sure].mean()) if sure.any() else float("nan"),
    )


def macro_f1(guessed: Numbers, classes: Numbers) -> float:
    """Return the mean F1 over the labels that occur in `classes`; labels without a head count as one."""
    scores = []
    for label in np.unique(classes):
        hits = int(((guessed == label) & (classes == label)).sum())
        scores.append(2 * hits / int((guessed == label).sum() + (classes == label).sum()))
    return float(np.mean(scores))


def expected_calibration_error(confidence: Floats, right: NDArray[np.bool_]) -> float:
    """Return the ECE over 15 equal bins of confidence; Naeini et al. 2015."""
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    excess = confidence - right
    return float(sum(abs(excess[bins == b].sum()) for b in np.unique(bins)) / len(bins))


def sure_threshold(confidence: Floats, right: NDArray[np.bool_], precision: float, least: float) -> float:
    """Return the smallest score, at least `least`, above which the share of right labels is `precision`; else 1."""
    order = np.argsort(-confidence, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero((shares >= precision) & (np.arange(len(order)) >= min(50, len(order)) - 1))
    if not len(enough):
        return 1.0
    return max(least, float(confidence[order][enough[-1]]))


def figures_table(title: str, figures: Mapping[str, Figures]) -> Table:
    """Return a table in per cent, one line an attribute."""
    table = Table(title=title)
    for column in ("attribute", "rows", "accuracy", "macro-F1", "top-3", "ECE", "sure", "accuracy when sure"):
        table.add_column(column, justify="left" if column == "attribute" else "right")
    for name, f in figures.items():
        table.add_row(name, str(f.rows), *(f"{100 * share:.1f}" for share in f[1:]))
    return table
