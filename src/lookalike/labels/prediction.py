"""Labels many images in batches: one list a label for what is sure, `inconclusive` for the rest, and all as JSON."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.labels.features import FeatureReader
from lookalike.labels.head import LabelHead
from lookalike.labels.lists import write_names
from lookalike.labels.problems import BadInput, Problem, settle
from lookalike.labels.task import Example


@dataclass(frozen=True)
class Prediction:
    """One image's label: the best score's; `sure` from the task's threshold on."""

    name: str
    label: str
    score: float
    sure: bool
    scores: dict[str, float]


@dataclass(frozen=True)
class Predicted:
    """The predictions of the images that could be read, and what the others lack."""

    predictions: list[Prediction]
    unreadable: list[tuple[Example, Problem]]


def predict(
    head: LabelHead, reader: FeatureReader, images: Sequence[Example], threshold: float, bad_input: BadInput
) -> Predicted:
    """Return the labels of `images`; one is sure when its score is at least `threshold`.

    Raises:
        SetupError: naming the images that cannot be read, when `bad_input` is `stop`.
    """
    featured = reader.read(images, f"{head.card.name}: labelling")
    settle(featured.problems, bad_input)
    wrong = {(problem.file, problem.line): problem for problem in featured.problems}
    places = [(image, (image.list_file, image.line)) for image in images]
    unreadable = [(image, wrong[place]) for image, place in places if place in wrong]
    scores = head.scores(featured.features)
    rows = zip(featured.examples, scores, strict=True)
    return Predicted([read_scores(head.card.labels, row, threshold, image.name) for image, row in rows], unreadable)


def read_scores(labels: Sequence[str], scores: NDArray[np.float32], threshold: float, name: str = "") -> Prediction:
    """Return what scores `(labels,)` say of one image."""
    best = int(scores.argmax())
    score = min(1.0, float(scores[best]))  # float32 sums may end at 1.0000001
    return Prediction(
        name=name,
        label=labels[best],
        score=round(score, 6),
        sure=score >= threshold,
        scores={label: round(float(value), 6) for label, value in zip(labels, scores, strict=True)},
    )


def write_predictions(predicted: Predicted, labels: Sequence[str], prefix: Path) -> list[Path]:
    """Write `<prefix>.<label>` for each label, `.inconclusive`, `.unreadable` where there is such, and `.json`."""
    lists = {label: [p.name for p in predicted.predictions if p.sure and p.label == label] for label in labels}
    lists["inconclusive"] = [p.name for p in predicted.predictions if not p.sure]
    if predicted.unreadable:
        lists["unreadable"] = [example.name for example, _ in predicted.unreadable]
    written = []
    for suffix, names in lists.items():
        written.append(prefix.with_name(f"{prefix.name}.{suffix}"))
        write_names(written[-1], names)
    entries = [
        {"file_name": p.name, "label": p.label, "score": p.score, "sure": p.sure, "scores": p.scores}
        for p in predicted.predictions
    ]
    entries += [{"file_name": example.name, "error": str(problem)} for example, problem in predicted.unreadable]
    written.append(prefix.with_name(f"{prefix.name}.json"))
    written[-1].write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return written
