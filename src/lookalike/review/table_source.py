"""A table as a source: a CSV with a column of images, one of labels, and perhaps a model's label and score."""

import csv
import io
from pathlib import Path

from lookalike.errors import SetupError
from lookalike.index.durable import replace_file
from lookalike.review.cases import Case, hardest_first, trouble
from lookalike.review.journal import Decision
from lookalike.review.label_source import keep_first_state

GUESS, SCORE = "predicted", "confidence"
SURE = 0.5


class TableSource:
    """The rows of a CSV; decisions change the label's column or take rows out, all else stays as it is."""

    def __init__(self, file: Path, imgroot: Path, image_column: str, label_column: str) -> None:
        """The columns `predicted` and `confidence` are a model's, where there are such.

        Raises:
            SetupError: the file cannot be read, lacks a column, or names an image twice.
        """
        self._file, self._image, self._label = file, image_column, label_column
        self._columns, self._rows = _read_table(file, [image_column, label_column])
        self.name = f"{file.name}: {label_column}"
        self.journal_file = file.with_name(f"{file.name}.{label_column}.review.jsonl")
        self.labels = sorted({row[label_column] for row in self._rows if row[label_column]})
        self.cases = hardest_first([self._case(number, row, imgroot) for number, row in enumerate(self._rows, start=2)])

    def export(self, decisions: dict[str, Decision]) -> list[Path]:
        """Write the table anew; its first state is kept as `<file>.before-review`."""
        rows, changed = [], False
        for row in self._rows:
            decision = decisions.get(row[self._image])
            changed |= decision is not None and decision.action == "weed"
            if decision is not None and decision.action == "weed":
                continue
            label = decision.label if decision is not None and decision.action == "label" else row[self._label]
            changed |= label != row[self._label]
            rows.append({**row, self._label: label})
        if not changed:
            return []
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        keep_first_state(self._file)
        replace_file(self._file, text.getvalue().encode())
        return [self._file]

    def _case(self, number: int, row: dict[str, str], imgroot: Path) -> Case:
        label, guess = row[self._label], row.get(GUESS, "")
        try:
            score = float(row.get(SCORE) or "nan")
        except ValueError as error:
            raise SetupError(f"{self._file}:{number}: {SCORE} is {row[SCORE]!r}", allowed="a number 0 to 1") from error
        known = score == score  # not NaN
        support = 1.0 if not known else score if guess in ("", label) else 1 - score
        why = trouble(label, guess, score, SURE) if known else "not scored"
        place = f"{self._file.name}:{number}"
        name = row[self._image]
        return Case(name, imgroot / name, label, guess, score if known else 0.0, support, why, place)


def _read_table(file: Path, needed: list[str]) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened, restval="")
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SetupError(f"cannot read {file}: {error}") from error
    if missing := [name for name in needed if name not in columns]:
        raise SetupError(f"{file} has no column {', '.join(missing)}", allowed=columns)
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        if None in row:
            raise SetupError(f"{file}:{number} has more fields than the header")
        if (before := seen.setdefault(row[needed[0]], number)) != number:
            raise SetupError(f"{file}:{number} names {row[needed[0]]}, as line {before} does")
    return columns, rows
