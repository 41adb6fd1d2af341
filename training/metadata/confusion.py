"""What the metadata heads take for what: confusion plots, reliability diagrams and the most frequent confusions.

python -m training.metadata.confusion --model var/models/metadata_creator --out var/metadata-report --split test
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lookalike.attributes import Describer
from lookalike.errors import LookalikeError, SetupError
from training.metadata.guesses import add_options, best_guesses, read_model_and_rows
from training.metadata.report import BINS, expected_calibration_error
from training.metadata.sets import Labelled

matplotlib.use("Agg")  # there is no screen
import matplotlib.pyplot as plt

SHOWN_LABELS = 22
SHOWN_CONFUSIONS = 15
OTHER = "(other)"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Guesses:
    """One attribute of the rows that know it: labels and guesses `(n,)` str, the guesses' scores `(n,)` float32."""

    name: str
    labels: NDArray[np.str_]
    guesses: NDArray[np.str_]
    confidence: Floats

    @property
    def right(self) -> NDArray[np.bool_]:
        """`(n,)` bool: which guesses are right; a label without a head is never guessed."""
        return np.asarray(self.labels == self.guesses)

    def frequent_labels(self, count: int) -> list[str]:
        """Return the labels of the most rows, the most frequent first, ties by name."""
        counts = Counter(self.labels.tolist())
        return sorted(counts, key=lambda label: (-counts[label], label))[:count]


def attribute_guesses(describer: Describer, part: Labelled) -> list[Guesses]:
    """Return the guesses for each attribute that the rows know."""
    found = []
    for name, (guesses, scores) in best_guesses(describer, part).items():
        known = np.array([bool(row.values.get(name)) for row in part.rows])
        if known.any():
            labels = np.array([row.values[name] for row in part.rows if row.values.get(name)])
            found.append(Guesses(name, labels, guesses[known], scores[known]))
    return found


def confusion_matrix(given: Guesses, labels: Sequence[str]) -> NDArray[np.int64]:
    """Return `(labels, labels + 1)` int64: rows of each label by guess; the last column counts all other guesses."""
    places = {label: i for i, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels) + 1), np.int64)
    for label, guess in zip(given.labels.tolist(), given.guesses.tolist(), strict=True):
        if label in places:
            matrix[places[label], places.get(guess, len(labels))] += 1
    return matrix


def plot_confusion(given: Guesses, file: Path) -> None:
    """Draw the most frequent labels, each row's shares as darkness, its counts as numbers."""
    labels = given.frequent_labels(SHOWN_LABELS)
    counts = confusion_matrix(given, labels)
    edge = 3 + 0.5 * len(labels)
    figure, axis = plt.subplots(figsize=(edge + 0.5, edge), layout="constrained")
    axis.imshow(counts / counts.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    _write_counts(axis, counts)
    totals = counts.sum(axis=1)
    axis.set_xticks(range(len(labels) + 1), [*labels, OTHER], rotation=90)
    axis.set_yticks(range(len(labels)), [f"{label} ({total})" for label, total in zip(labels, totals, strict=True)])
    of_all = len(set(given.labels.tolist()))
    axis.set(xlabel="guess", ylabel="label (rows)", title=f"{given.name}: {len(labels)} of {of_all} labels")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _write_counts(axis: Axes, counts: NDArray[np.int64]) -> None:
    totals = counts.sum(axis=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if count > 0.5 * totals[row] else "black"
            axis.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)


def reliability(given: Guesses) -> list[tuple[float, float, int]]:
    """Return of each bin of confidence that has rows: mean confidence, accuracy, rows; bins as the ECE's."""
    bins = np.clip(np.ceil(given.confidence * BINS).astype(int) - 1, 0, BINS - 1)
    parts = [bins == number for number in np.unique(bins)]
    return [(float(given.confidence[p].mean()), float(given.right[p].mean()), int(p.sum())) for p in parts]


def plot_reliability(given: Guesses, file: Path) -> None:
    """Draw accuracy against confidence, the diagonal beside it, and how many rows each bin has; Guo et al. 2017."""
    confidence, accuracy, rows = zip(*reliability(given), strict=True)
    figure, (above, below) = plt.subplots(
        2, sharex=True, figsize=(4.5, 5.5), height_ratios=[3, 1], layout="constrained"
    )
    above.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    above.plot(confidence, accuracy, marker="o", color="tab:blue")
    ece = 100 * expected_calibration_error(given.confidence, given.right)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=f"{given.name}: ECE {ece:.1f} %, {sum(rows)} rows")
    below.bar(confidence, rows, width=0.8 / BINS, color="tab:blue")
    below.set(xlabel="confidence", ylabel="rows")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def most_confused(given: Guesses, count: int = SHOWN_CONFUSIONS) -> list[tuple[str, str, int, float]]:
    """Return the most frequent wrong guesses: label, guess, rows, and their share of the label's rows."""
    totals = Counter(given.labels.tolist())
    wrong = Counter(zip(given.labels[~given.right].tolist(), given.guesses[~given.right].tolist(), strict=True))
    ordered = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:count]
    return [(label, guess, rows, rows / totals[label]) for (label, guess), rows in ordered]


def confused_lines(attributes: Sequence[Guesses], title: str) -> Iterator[str]:
    """Yield `confused.md` line by line."""
    yield f"# What is taken for what: {title}"
    for given in attributes:
        yield f"\n## {given.name}: {100 * given.right.mean():.1f} % of {len(given.labels)} rows are right\n"
        yield "| label | guess | rows | of the label's rows, % |\n|---|---|---|---|"
        for label, guess, rows, share in most_confused(given):
            yield f"| {label} | {guess} | {rows} | {100 * share:.1f} |"


def prepare_folder(out: Path) -> None:
    """Make the folder for the report.

    Raises:
        SetupError: when there cannot be one.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"{out} cannot be a folder for the report ({error.strerror})") from error


def write_report(describer: Describer, part: Labelled, out: Path, title: str) -> None:
    """Write `confusion-<attribute>.png` and `reliability-<attribute>.png` of each attribute, and `confused.md`."""
    prepare_folder(out)
    attributes = attribute_guesses(describer, part)
    for given in attributes:
        plot_confusion(given, out / f"confusion-{given.name}.png")
        plot_reliability(given, out / f"reliability-{given.name}.png")
    (out / "confused.md").write_text("\n".join(confused_lines(attributes, title)) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's error is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Draw what the metadata heads take for what.")
    add_options(parser, Path("var/metadata-report"), "test")
    options = parser.parse_args(argv)
    try:
        _, heads, part = read_model_and_rows(options)
        write_report(heads, part, options.out, f"{options.split}, {len(part.rows)} rows")
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(f"{options.out}: plots and confused.md of {len(part.rows)} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
