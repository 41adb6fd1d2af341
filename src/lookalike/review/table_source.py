"""A table as a source: a CSV with a column of images, one of labels, and perhaps a model's label and score."""

import csv
import io
from collections import Counter
from collections.abc import Set
from pathlib import Path

from lookalike.errors import SetupError
from lookalike.index.durable import replace_file
from lookalike.review.cases import Case, hardest_first, trouble
from lookalike.review.journal import Decision
from lookalike.review.label_source import backup_of, keep_first_state

GUESS, SCORE = "predicted", "confidence"
SURE = 0.5


class TableSource:
    """The rows of a CSV; decisions change the label's column or take rows out, all else stays as it is."""

    def __init__(
        self,
        file: Path,
        imgroot: Path,
        image_column: str,
        label_column: str,
        image_suffix: str = "",
        guessed: bool = False,
    ) -> None:
        """The columns `predicted` and `confidence` are a model's, where there are such.

        `image_suffix` is what file names have behind the text of `image_column`. With `guessed` only rows with a guess
        are cases; the others stay in the table.

        Raises:
            SetupError: the file cannot be read, lacks a column, or names an image twice.
        """
        self._file, self._image, self._label = file, image_column, label_column
        needed = [image_column, label_column]
        _, now = _read_table(file, needed)
        before = _read_table(backup_of(file), needed)[1] if backup_of(file).exists() else now
        self._first = {row[image_column]: row for row in before}
        # The first labels are what is reviewed; rows that an earlier export took out can come back.
        self._rows = [*self._first.values(), *(row for row in now if row[image_column] not in self._first)]
        self.name = f"{file.name}: {label_column}"
        self.journal_file = file.with_name(f"{file.name}.{label_column}.review.jsonl")
        counts = Counter(row[label_column] for row in self._rows if row[label_column])
        self.labels = sorted(counts, key=lambda label: (-counts[label], label))  # the first nine have keys
        self._folder, self._suffix = imgroot, image_suffix
        numbered = enumerate(self._rows, start=2)
        self.cases = hardest_first([self._case(at, row) for at, row in numbered if row.get(GUESS) or not guessed])

    def export(self, decisions: dict[str, Decision], touched: Set[str]) -> list[Path]:
        """Write the table anew; its first state is kept as `<file>.before-review`."""
        columns, now = _read_table(self._file, [self._image, self._label])
        there = {row[self._image]: row for row in now}
        lost = [name for name in self._first if name in touched and name not in there]
        rows = [self._decided(there.get(name) or self._first[name], decisions, touched) for name in [*there, *lost]]
        kept = [row for row in rows if row is not None]
        if kept == now:
            return []
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)
        keep_first_state(self._file)
        replace_file(self._file, text.getvalue().encode())
        return [self._file]

    def _decided(self, row: dict[str, str], decisions: dict[str, Decision], touched: Set[str]) -> dict[str, str] | None:
        """Return a row as it is decided; None when it is weeded out."""
        name = row[self._image]
        if name not in touched or name not in self._first:
            return row
        decision = decisions.get(name, Decision(action="keep"))
        if decision.action == "weed":
            return None
        label = decision.label if decision.action == "label" else self._first[name][self._label]
        return {**row, self._label: label}

    def _case(self, number: int, row: dict[str, str]) -> Case:
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
        return Case(
            name, self._folder / f"{name}{self._suffix}", label, guess, score if known else 0.0, support, why, place
        )


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
