"""Reads and writes lists of images: text files with one file name a line, relative to an image root."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lookalike.catalogue import IMAGE_SUFFIXES
from lookalike.errors import SetupError
from lookalike.labels.problems import Problem, settle
from lookalike.labels.task import Example, LabelTask, ListOfLabel


def read_names(file: Path) -> list[tuple[int, str]]:
    """Return the lines of a list that are not blank, with their numbers.

    Raises:
        SetupError: when the file cannot be read or is not UTF-8.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SetupError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"{file} is not UTF-8 text: {error}") from error
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def write_names(file: Path, names: Iterable[str]) -> None:
    """Write a list, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    os.replace(partial, file)


def training_examples(task: LabelTask) -> list[Example]:
    """Return the images to train on, in the order of the task file; see `_examples`."""
    found = _examples(task, task.training)
    settle(_empty_labels(task, found), task.settings.bad_input)
    labels = {example.label for example in found}
    if len(labels) < 2:
        raise SetupError(f"{task.file}: fewer than two labels have images", allowed="two or more")
    return found


def evaluation_examples(task: LabelTask, training: Sequence[Example]) -> list[Example]:
    """Return the images that are only measured on; none of them may be in `training`.

    Raises:
        SetupError: naming each wrong line, unless the task goes on without them.
    """
    where = {example.path: example for example in training}
    found = _examples(task, task.evaluation)
    both = [example for example in found if example.path in where]
    problems = (e.problem(f"{e.name} is trained on: {where[e.path].list_file}:{where[e.path].line}") for e in both)
    settle(problems, task.settings.bad_input)
    return [example for example in found if example.path not in where]


def _examples(task: LabelTask, lists: Iterable[ListOfLabel]) -> list[Example]:
    """Return the images of `lists`; missing files, and images under two labels, are problems.

    Raises:
        SetupError: naming each wrong line, unless the task goes on without them.
    """
    first: dict[Path, Example] = {}
    contradicted: set[Path] = set()
    problems: list[Problem] = []
    for entry in lists:
        for example in _listed(task, entry, problems):
            before = first.setdefault(example.path, example)
            if before.label != example.label:
                there = f"{before.label!r} in {before.list_file}:{before.line}"
                problems.append(example.problem(f"{example.name} is {example.label!r} here and {there}"))
                contradicted.add(example.path)
            elif not example.path.is_file() and before is example:
                problems.append(example.problem(f"there is no image {example.path}"))
                contradicted.add(example.path)
    settle(problems, task.settings.bad_input)
    return [example for path, example in first.items() if path not in contradicted]


def _listed(task: LabelTask, entry: ListOfLabel, problems: list[Problem]) -> list[Example]:
    if not entry.path.is_file():
        problems.append(Problem(task.file, entry.line, f"label {entry.label!r}: there is no list {entry.path}"))
        return []
    return [
        Example(name, task.imgroot / name, entry.label, entry.path, number) for number, name in read_names(entry.path)
    ]


def _empty_labels(task: LabelTask, found: Sequence[Example]) -> list[Problem]:
    labels = {example.label for example in found}
    return [
        Problem(task.file, task.lines[label], f"label {label!r} has no image")
        for label in task.labels
        if label not in labels
    ]


def images_to_label(source: Path, imgroot: Path) -> list[Example]:
    """Return the images of a list (relative to `imgroot`) or of a folder; their label is not known.

    Raises:
        SetupError: when there is no such list or folder, or nothing in it.
    """
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        found = [Example(str(path.relative_to(source)), path, "", source, i) for i, path in enumerate(paths, start=1)]
    else:
        found = [Example(name, imgroot / name, "", source, number) for number, name in read_names(source)]
    if not found:
        raise SetupError(f"there is no image in {source}")
    return found
