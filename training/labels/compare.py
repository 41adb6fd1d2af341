"""Compares what a task could be trained with: every resize mode, every head, on the same folds."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

from lookalike.embedding import Embedder
from lookalike.labels.task import LabelTask, TaskSettings
from lookalike.preprocessing import Resize
from training.labels.figures import Figures, figures_table
from training.labels.train import train_task

HEADS = get_args(TaskSettings.model_fields["head"].annotation)


def compare_table(task: LabelTask, embedder: Embedder, cache: Path | None) -> str:
    """Return a Markdown table: each resize mode and head, on the training images out of fold and the evaluation lists.

    Choose by the former: the evaluation lists are no longer unseen once a choice was made on them.
    """
    return figures_table(dict(_variants(task, embedder, cache)))


def _variants(task: LabelTask, embedder: Embedder, cache: Path | None) -> Iterator[tuple[str, Figures]]:
    for resize in get_args(Resize):
        for head in HEADS:
            settings = task.settings.model_copy(update={"resize": resize, "head": head})
            trained = train_task(replace(task, settings=settings), embedder, cache)
            for name, figures in trained.figures().items():
                yield f"{resize}, {head}: {name}", figures
