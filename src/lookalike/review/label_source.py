"""Label tasks as a source: the images of a trained task's lists, and the images that a task has labelled."""

import json
import shutil
from collections.abc import Set
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from lookalike.errors import SetupError, wrong_fields
from lookalike.labels.head import read_card
from lookalike.labels.lists import read_names, write_names
from lookalike.review.cases import Case, hardest_first, trouble
from lookalike.review.journal import Decision

BACKUP_SUFFIX = ".before-review"


class _Example(BaseModel):
    """What `lookalike labels train` keeps of an image."""

    part: str
    file_name: str
    path: Path
    listed_in: Annotated[Path, Field(alias="list")]
    line: int
    label: str
    scores: list[float]


class TaskSource:
    """A trained task: each image of its lists, scored by a head that had not seen it. Decisions change the lists."""

    def __init__(self, trained: Path) -> None:
        """`trained` is the folder of the task, `var/labels/<task>`.

        Raises:
            SetupError: the task is not trained, or its files are none.
        """
        card = read_card(trained)
        self.name, self.labels = card.name, card.labels
        self.journal_file = trained / "review.jsonl"
        self._examples = {example.file_name: example for example in _read_examples(trained / "examples.json")}
        self.cases = hardest_first([_case(example, card.labels, card.threshold) for example in self._examples.values()])

    def export(self, decisions: dict[str, Decision], touched: Set[str]) -> list[Path]:
        """Rewrite the lists that change, each one's first state kept as `<list>.before-review`.

        A relabelled image goes to the first list of its new label in the same part (training or evaluation).

        Raises:
            SetupError: there is no list of the new label, or a list cannot be read.
        """
        homes = {name: self._home(name, decisions.get(name)) for name in sorted(touched & self._examples.keys())}
        changed = []
        for file in sorted({example.listed_in for example in self._examples.values()}):
            before = [name for _, name in read_names(file)]
            after = [name for name in before if homes.get(name, file) == file]
            after += [name for name, home in homes.items() if home == file and name not in after]
            if after != before:
                keep_first_state(file)
                write_names(file, after)
                changed.append(file)
        return changed

    def _home(self, name: str, decision: Decision | None) -> Path | None:
        """Return the list that an image belongs to; None when it is weeded out."""
        example = self._examples[name]
        if decision is None or decision.action == "keep" or decision.label == example.label:
            return example.listed_in
        return None if decision.action == "weed" else self._list_of(decision.label, example.part)

    def _list_of(self, label: str, part: str) -> Path:
        for example in self._examples.values():
            if (example.label, example.part) == (label, part):
                return example.listed_in
        raise SetupError(f"no list of the {part} images holds label {label!r}", allowed="add one to the task file")


class PredictionSource:
    """What `lookalike labels predict` wrote: `<source>.json` and its lists, which decisions move images between."""

    def __init__(self, file: Path, imgroot: Path) -> None:
        """`imgroot` is the folder that its file names are relative to.

        Raises:
            SetupError: the file is none of `lookalike labels predict`.
        """
        self._file, self._entries = file, _read_predictions(file)
        labels = dict.fromkeys(label for entry in self._entries for label in entry["scores"])
        self.name, self.labels = file.stem, list(labels)
        self.journal_file = file.with_name(f"{file.stem}.review.jsonl")
        self.cases = hardest_first([_predicted_case(entry, imgroot) for entry in self._entries])

    def export(self, decisions: dict[str, Decision], touched: Set[str]) -> list[Path]:
        """Write the lists anew: a decided image stands in its label's, an undecided one where its score puts it."""
        lists: dict[str, list[str]] = {label: [] for label in [*self.labels, "inconclusive"]}
        for entry in self._entries:
            decision, name = decisions.get(entry["file_name"]), str(entry["file_name"])
            if decision is not None and decision.action == "weed":
                continue
            label = entry["label"] if entry["sure"] else "inconclusive"
            if decision is not None:
                label = decision.label if decision.action == "label" else entry["label"]
            lists[label].append(name)
        written = []
        for label, names in lists.items():
            file = self._file.with_name(f"{self._file.stem}.{label}")
            if file.exists():
                if [name for _, name in read_names(file)] == names:
                    continue
                keep_first_state(file)
            write_names(file, names)
            written.append(file)
        return written


def keep_first_state(file: Path) -> None:
    """Keep what a file holds before the first export, once."""
    if not backup_of(file).exists():
        shutil.copy2(file, backup_of(file))


def backup_of(file: Path) -> Path:
    """Return where the first state of a file is kept."""
    return file.with_name(file.name + BACKUP_SUFFIX)


def _case(example: _Example, labels: list[str], threshold: float) -> Case:
    best = max(range(len(labels)), key=lambda i: example.scores[i])
    score = example.scores[best]
    return Case(
        name=example.file_name,
        path=example.path,
        label=example.label,
        guess=labels[best],
        score=score,
        support=example.scores[labels.index(example.label)],
        why=trouble(example.label, labels[best], score, threshold),
        place=f"{example.listed_in.name}:{example.line}",
    )


def _read_examples(file: Path) -> list[_Example]:
    try:
        return [_Example.model_validate(entry) for entry in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError) as error:
        told = wrong_fields(error) if isinstance(error, ValidationError) else error
        raise SetupError(f"cannot read {file}: {told}", allowed="lookalike labels train TASK.yaml") from error


def _read_predictions(file: Path) -> list[dict[str, Any]]:
    try:
        entries = [entry for entry in json.loads(file.read_text(encoding="utf-8")) if "error" not in entry]
        for entry in entries:
            _ = entry["file_name"], entry["label"], entry["sure"], entry["scores"][entry["label"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SetupError(f"{file} is no file of predictions: {error!r}", allowed="lookalike labels predict") from error
    return entries


def _predicted_case(entry: dict[str, Any], imgroot: Path) -> Case:
    name, score = str(entry["file_name"]), float(entry["scores"][entry["label"]])
    why = "agrees" if entry["sure"] else "unsure"
    return Case(name, imgroot / name, "", str(entry["label"]), score, score, why, "")
