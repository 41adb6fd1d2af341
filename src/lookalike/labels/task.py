"""A label task as its owner writes it: a YAML file with ordered labels, and lists with one file name a line."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from lookalike.errors import SetupError
from lookalike.labels.problems import BadInput, Problem
from lookalike.preprocessing import Resize

EVALUATION_SUFFIX = ".val"  # beside a list: images that are only measured on, never trained on
RESERVED_LABELS = ("inconclusive", "unreadable", "json")  # the names of the other files that a prediction writes
_IGNORED_KEYS = {
    "port": "every task is served by TorchServe at POST /predictions/<task>",
    "model_file": "a task is named after its YAML file and kept in var/labels/<task>/",
}
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class TaskSettings(BaseModel, extra="forbid", frozen=True):
    """The keys of a task file besides its data; docs/labels.md explains each."""

    version: Annotated[str, Field(pattern=r"^\d+(\.\d+)*$")] = "1.0"
    imgroot: Path = Path("imgroot")
    embedder: Path = Path("var/models/embedder")
    input_px: Annotated[int, Field(gt=0)] | None = None
    resize: Resize | None = None
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.95
    head: Literal["linear", "mlp"] = "linear"
    hidden: Annotated[int, Field(ge=2)] = 64
    class_weight_power: Annotated[float, Field(ge=0, le=1)] = 1.0
    folds: Annotated[int, Field(ge=2)] = 5
    seed: int = 0
    bad_input: BadInput = "stop"


@dataclass(frozen=True)
class ListOfLabel:
    """A list of images that show one label; `line` is where the task file names it."""

    label: str
    path: Path
    line: int


@dataclass(frozen=True)
class LabelTask:
    """A task file, read; `lines` says where each label stands in it."""

    name: str
    file: Path
    labels: tuple[str, ...]
    lines: dict[str, int]
    training: tuple[ListOfLabel, ...]
    evaluation: tuple[ListOfLabel, ...]
    settings: TaskSettings
    notes: tuple[str, ...]

    @property
    def imgroot(self) -> Path:
        """The folder that file names are relative to."""
        return self.file.parent / self.settings.imgroot


@dataclass(frozen=True)
class Example:
    """One image of a list, and where it is listed."""

    name: str
    path: Path
    label: str
    list_file: Path
    line: int

    def problem(self, message: str) -> Problem:
        """Return what is wrong with this image."""
        return Problem(self.list_file, self.line, message)


def read_task(file: Path) -> LabelTask:
    """Read a task file; the keys of older tools that have no meaning here are noted and ignored.

    Raises:
        SetupError: naming the file and the line or key that is wrong.
    """
    name = file.stem
    if not _NAME.fullmatch(name):
        raise SetupError(
            f"{file}: {name!r} cannot name an endpoint",
            allowed="lower-case letters, digits, - and _, beginning with a letter",
        )
    root = _compose(file)
    keys = {str(key.value): value for key, value in root.value}
    training = tuple(_lists(file, keys.pop("training_data", None), "training_data"))
    labels = tuple(dict.fromkeys(entry.label for entry in training))
    if len(labels) < 2:
        raise SetupError(f"{file}: training_data names {len(labels)} labels", allowed="two or more")
    evaluation_data = keys.pop("evaluation_data", None)
    evaluation = tuple(_lists(file, evaluation_data, "evaluation_data") if evaluation_data else _beside(training))
    for entry in evaluation:
        if entry.label not in labels:
            raise SetupError(f"{file}:{entry.line}: label {entry.label!r} is not in training_data", allowed=labels)
    notes = tuple(f"{file}: {key} is ignored: {why}" for key, why in _IGNORED_KEYS.items() if keys.pop(key, None))
    lines = {entry.label: entry.line for entry in reversed(training)}
    return LabelTask(name, file, labels, lines, training, evaluation, _settings(file, keys), notes)


def _compose(file: Path) -> yaml.MappingNode:
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise SetupError(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SetupError(f"{file} is not YAML: {error}") from error
    if not isinstance(root, yaml.MappingNode):
        raise SetupError(f"{file} is not a task file", allowed="a mapping with training_data")
    return root


def _settings(file: Path, keys: dict[str, yaml.Node]) -> TaskSettings:
    lines = {key: node.start_mark.line + 1 for key, node in keys.items()}
    values = {key: yaml.safe_load(yaml.serialize(node)) for key, node in keys.items()}
    if isinstance(values.get("version"), int | float):
        values["version"] = str(values["version"])  # YAML reads 1.0 as a number
    try:
        return TaskSettings.model_validate(values)
    except ValidationError as error:
        wrong = [f"{file}:{lines[str(e['loc'][0])]}: {e['loc'][0]}: {e['msg']}" for e in error.errors()]
        allowed = ["training_data", "evaluation_data", *TaskSettings.model_fields]
        raise SetupError("\n".join(wrong), allowed=allowed) from error


def _lists(file: Path, node: Any, key: str) -> Iterator[ListOfLabel]:
    if not isinstance(node, yaml.SequenceNode):
        where = f"{file}:{node.start_mark.line + 1}" if node is not None else f"{file}"
        raise SetupError(f"{where}: {key} is missing or no list", allowed="a list of `- label: [list, list]`")
    for entry in node.value:
        line = entry.start_mark.line + 1
        if not isinstance(entry, yaml.MappingNode) or len(entry.value) != 1:
            raise SetupError(f"{file}:{line}: an entry of {key} must name one label", allowed="- label: [list, list]")
        ((label, lists),) = entry.value
        yield from _lists_of_label(file, label, lists)


def _lists_of_label(file: Path, label: yaml.Node, lists: yaml.Node) -> Iterator[ListOfLabel]:
    name, line = str(label.value), label.start_mark.line + 1
    if not name.isprintable() or "/" in name or name.strip(" .") != name or not name or name in RESERVED_LABELS:
        raise SetupError(
            f"{file}:{line}: {name!r} cannot be a label: predictions are written to files of that name",
            allowed=f"a file name other than {', '.join(RESERVED_LABELS)}",
        )
    nodes = lists.value if isinstance(lists, yaml.SequenceNode) else [lists]
    paths = [node for node in nodes if isinstance(node, yaml.ScalarNode) and node.value]
    if not paths or len(paths) != len(nodes):
        raise SetupError(f"{file}:{line}: label {name!r} has no list of images", allowed="- label: [list, list]")
    for node in paths:
        yield ListOfLabel(name, file.parent / node.value, node.start_mark.line + 1)


def _beside(training: Sequence[ListOfLabel]) -> Iterator[ListOfLabel]:
    for entry in training:
        path = entry.path.with_name(entry.path.name + EVALUATION_SUFFIX)
        if path.is_file():
            yield ListOfLabel(entry.label, path, entry.line)
