"""The rows that the metadata heads learn from: a manifest in CSV, checked line by line, its labels as class numbers."""

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import SetupError

MISSING = ("", "NA")
IGNORED = -100  # the class number of a missing or folded label: torch's cross_entropy skips it


@dataclass(frozen=True)
class Row:
    """One line of a manifest: the image's name and what is known of it ("" where nothing is)."""

    line: int
    image: str
    split: str
    values: dict[str, str]


class ImageFiles(Protocol):
    """Named, encoded images."""

    def read(self, name: str) -> bytes:
        """Return the image's bytes; KeyError or OSError when it is not there."""


class ZipImages:
    """Images `<name>.jpg` inside one zip archive."""

    def __init__(self, path: Path) -> None:
        """Open the archive.

        Raises:
            SetupError: when it is missing or no zip archive.
        """
        try:
            self._zip = ZipFile(path)
        except (OSError, BadZipFile) as error:
            raise SetupError(f"{path}: cannot be opened as a zip archive ({error})") from error

    def has(self, name: str) -> bool:
        """Tell whether the archive holds `<name>.jpg`."""
        return f"{name}.jpg" in self._zip.NameToInfo

    def read(self, name: str) -> bytes:
        """Return the bytes of `<name>.jpg`."""
        return self._zip.read(f"{name}.jpg")


class FolderImages:
    """Images in a folder, named by their path in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> bytes:
        """Return the file's bytes."""
        return (self._folder / name).read_bytes()


def read_rows(path: Path, image_column: str, columns: Sequence[str], splits: Sequence[str] = ()) -> list[Row]:
    """Read a manifest; `columns` are the attributes wanted, "NA" becomes "" (not known).

    Raises:
        SetupError: for a missing file or column, and by line for too few or too many cells, an image that is not named
            or named twice, a split that is not in `splits` (where given).
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            _check_header(path, reader.fieldnames or [], [image_column, *columns])
            rows = [_row(path, reader.line_num, cells, image_column, columns) for cells in reader]
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise SetupError(f"{path}: is not UTF-8 ({error})") from error
    _check_unique(path, rows)
    for row in rows:
        if splits and row.split not in splits:
            raise SetupError(f"{path}, line {row.line}: unknown split {row.split!r}", allowed=list(splits))
    return rows


def _check_header(path: Path, header: Sequence[str], wanted: Iterable[str]) -> None:
    unknown = [column for column in wanted if column not in header]
    if unknown:
        raise SetupError(f"{path}, line 1: no column {', '.join(map(repr, unknown))}", allowed=list(header))


def _row(path: Path, line: int, cells: dict[str, str], image_column: str, columns: Sequence[str]) -> Row:
    if None in cells or None in cells.values():
        raise SetupError(f"{path}, line {line}: another number of cells than the header has")
    if not cells[image_column]:
        raise SetupError(f"{path}, line {line}: column {image_column!r} is empty")
    values = {column: "" if cells[column] in MISSING else cells[column] for column in columns}
    return Row(line, cells[image_column], cells.get("split", ""), values)


def _check_unique(path: Path, rows: list[Row]) -> None:
    first: dict[str, int] = {}
    for row in rows:
        if row.image in first:
            raise SetupError(f"{path}, line {row.line}: image {row.image!r} is already on line {first[row.image]}")
        first[row.image] = row.line


def label_lists(rows: Iterable[Row], attributes: Iterable[str], min_count: int) -> dict[str, list[str]]:
    """Return each attribute's labels with at least `min_count` rows, the most frequent first, ties by name."""
    counts = {name: Counter[str]() for name in attributes}
    for row in rows:
        for name, counter in counts.items():
            counter[row.values[name]] += 1
    return {name: _frequent(counter, min_count) for name, counter in counts.items()}


def _frequent(counts: Counter[str], min_count: int) -> list[str]:
    enough = [label for label, count in counts.items() if label and count >= min_count]
    return sorted(enough, key=lambda label: (-counts[label], label))


def class_numbers(rows: Iterable[Row], labels: dict[str, list[str]]) -> dict[str, NDArray[np.int64]]:
    """Return each attribute's class numbers `(n,)` int64; `IGNORED` where the label is missing or not in the list."""
    rows = list(rows)
    places = {name: {label: i for i, label in enumerate(listed)} for name, listed in labels.items()}
    return {
        name: np.array([at.get(row.values.get(name, ""), IGNORED) for row in rows], np.int64)
        for name, at in places.items()
    }


def majority_mapping(rows: Iterable[Row], source: str, target: str, source_labels: Sequence[str]) -> dict[str, str]:
    """Return for each label of `source` the label of `target` that most rows give it, ties by name."""
    counts = {label: Counter[str]() for label in source_labels}
    for row in rows:
        if row.values[source] in counts and row.values[target]:
            counts[row.values[source]][row.values[target]] += 1
    return {label: _frequent(counter, 1)[0] for label, counter in counts.items()}


def random_part(count: int, share: float, seed: int) -> NDArray[np.int64]:
    """Return the numbers, in order, of a random `share` of `count` rows, at least one.

    Raises:
        SetupError: for a share that is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise SetupError(f"a share of {share:g} of the train pictures: it must be above 0 and at most 1")
    return np.sort(np.random.default_rng(seed).permutation(count)[: max(1, round(share * count))])
