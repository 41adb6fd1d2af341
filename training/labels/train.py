"""Trains a label task: lists to features, features to a head, and what is known of every image."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from lookalike.embedding import Embedder
from lookalike.errors import SetupError
from lookalike.labels.features import Featured, FeatureReader
from lookalike.labels.folders import task_preprocess
from lookalike.labels.head import CARD_FILE, HEAD_FILE, LabelCard, LabelHead, softmax
from lookalike.labels.lists import evaluation_examples, training_examples
from lookalike.labels.problems import settle
from lookalike.labels.task import Example, LabelTask
from training.labels.figures import Figures, figures_of
from training.labels.fit import Fitted, fit_head

REPORT_FILE = "report.json"
EXAMPLES_FILE = "examples.json"

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Trained:
    """A trained task: scores of the training images are by heads that did not see them (out of fold)."""

    card: LabelCard
    fitted: Fitted
    head: LabelHead
    training: Featured
    training_scores: Floats
    evaluation: Featured
    evaluation_scores: Floats

    def figures(self) -> dict[str, Figures]:
        """Return the figures of the training images, out of fold, and of the evaluation images where there are any."""
        sets = {"training, out of fold": (self.training, self.training_scores)}
        if self.evaluation.examples:
            sets["evaluation lists"] = (self.evaluation, self.evaluation_scores)
        return {
            name: figures_of(scores, classes_of(featured.examples, self.card.labels), self.card.threshold)
            for name, (featured, scores) in sets.items()
        }


def classes_of(examples: list[Example], labels: list[str]) -> Numbers:
    """Return the number of each example's label `(n,)`."""
    return np.array([labels.index(example.label) for example in examples], np.int64)


def train_task(task: LabelTask, embedder: Embedder, cache: Path | None) -> Trained:
    """Train `task` on the features of `embedder`.

    Raises:
        SetupError: naming what is wrong in the task, its lists and its images.
    """
    preprocess = task_preprocess(embedder, task.settings)
    reader = FeatureReader(embedder, preprocess, cache)
    listed = training_examples(task)
    held_out = evaluation_examples(task, listed)
    training = _read(reader, listed, f"{task.name}: training images", task)
    labels = [label for label in task.labels if any(example.label == label for example in training.examples)]
    if len(labels) < 2:
        raise SetupError(f"{task.file}: fewer than two labels have images that can be read", allowed="two or more")
    known = [example for example in held_out if example.label in labels]
    evaluation = _read(reader, known, f"{task.name}: evaluation images", task)
    fitted = fit_head(training.features, classes_of(training.examples, labels), len(labels), task.settings)
    card = LabelCard(
        name=task.name,
        version=task.settings.version,
        labels=labels,
        threshold=task.settings.threshold,
        temperature=fitted.temperature,
        layers=fitted.layers,
        embedder=embedder.fingerprint,
        feature_dim=embedder.feature_dim,
        preprocess=preprocess,
        head_sha256=hashlib.sha256(save(fitted.tensors)).hexdigest(),
    )
    head = LabelHead(card, fitted.tensors)
    scores = softmax(fitted.out_of_fold / np.float32(fitted.temperature))
    return Trained(card, fitted, head, training, scores, evaluation, head.scores(evaluation.features))


def _read(reader: FeatureReader, examples: list[Example], what: str, task: LabelTask) -> Featured:
    featured = reader.read(examples, what)
    settle(featured.problems, task.settings.bad_input)
    return featured


def write_trained(trained: Trained, task: LabelTask, folder: Path) -> None:
    """Write head, card, report and what is known of every image to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD_FILE).unlink(missing_ok=True)  # without its card a half-written folder is no trained task
    (folder / HEAD_FILE).write_bytes(save(trained.fitted.tensors))
    report: dict[str, Any] = {
        "task": str(task.file),
        "settings": task.settings.model_dump(mode="json"),
        "embedder": trained.card.embedder,
        "penalty": trained.fitted.penalty,
        "temperature": trained.fitted.temperature,
        "left_out": [str(p) for p in [*trained.training.problems, *trained.evaluation.problems]],
        "figures": {name: figures._asdict() for name, figures in trained.figures().items()},
    }
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
    entries = [
        *_entries("training", trained.training.examples, trained.training_scores),
        *_entries("evaluation", trained.evaluation.examples, trained.evaluation_scores),
    ]
    (folder / EXAMPLES_FILE).write_text(json.dumps(entries, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(trained.card.model_dump_json(indent=2) + "\n")


def _entries(part: str, examples: list[Example], scores: Floats) -> list[dict[str, Any]]:
    return [
        {
            "part": part,
            "file_name": example.name,
            "path": str(example.path),
            "list": str(example.list_file),
            "line": example.line,
            "label": example.label,
            "scores": [round(float(score), 6) for score in row],
        }
        for example, row in zip(examples, scores, strict=True)
    ]
