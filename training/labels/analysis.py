"""What confused a trained task: a report, confusion plots, a contact sheet, and lists to label again."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from lookalike.errors import SetupError
from lookalike.labels.head import LabelCard, read_card
from lookalike.labels.lists import write_names
from training.labels.figures import figures_of, figures_table
from training.labels.train import EXAMPLES_FILE
from training.picture_grid import Cell, draw_grid, open_picture

matplotlib.use("Agg")  # there is no screen
import matplotlib.pyplot as plt

SHOWN = 40
PARTS = {"training": "training images, each by a head that did not see it", "evaluation": "evaluation lists"}

Floats = NDArray[np.float32]
Entry = dict[str, Any]


def analyze_task(trained: Path, out: Path) -> Path:
    """Write the analysis of the task in the folder `trained` to `out`; return the report's path.

    Raises:
        SetupError: when the task is not trained.
    """
    card, entries = read_card(trained), _entries(trained / EXAMPLES_FILE)
    out.mkdir(parents=True, exist_ok=True)
    for stale in [*out.glob("relabel-*"), *out.glob("inconclusive-*")]:
        stale.unlink()
    confused = sorted((e for e in entries if _confuses(e, card)), key=lambda e: _score_of_truth(e, card))
    _write_json(out / "confused.json", confused, card)
    _write_lists(out, confused, card)
    mistakes = [e for e in confused if _guess(e, card) != e["label"]]
    mistakes.sort(key=lambda e: -max(e["scores"]))
    if mistakes:
        cells = [Cell(open_picture(Path(e["path"])), _caption(e, card)) for e in mistakes[:SHOWN]]
        draw_grid(cells, columns=8).save(out / "mistakes.png")
    parts = {part: [e for e in entries if e["part"] == part] for part in PARTS}
    parts = {part: found for part, found in parts.items() if found}
    _plot_confusion(parts, card, out / "confusion.png")
    (out / "report.md").write_text(_report(parts, mistakes, confused, card), encoding="utf-8")
    return out / "report.md"


def _entries(file: Path) -> list[Entry]:
    try:
        entries: list[Entry] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError(f"cannot read {file}: {error}", allowed="lookalike labels train TASK.yaml") from error
    return entries


def _guess(entry: Entry, card: LabelCard) -> str:
    return card.labels[int(np.argmax(entry["scores"]))]


def _score_of_truth(entry: Entry, card: LabelCard) -> float:
    return float(entry["scores"][card.labels.index(entry["label"])])


def _confuses(entry: Entry, card: LabelCard) -> bool:
    """Tell whether the right label is not sure: the guess is wrong, or right but weak."""
    return _score_of_truth(entry, card) < card.threshold


def _caption(entry: Entry, card: LabelCard) -> str:
    place = f"{Path(entry['list']).name}:{entry['line']}"
    return f"listed {entry['label']}, seen {_guess(entry, card)} {max(entry['scores']):.0%} {place}"


def _write_json(file: Path, confused: Sequence[Entry], card: LabelCard) -> None:
    written = [
        {
            "file_name": e["file_name"],
            "label": e["label"],
            "predicted": _guess(e, card),
            "score": max(e["scores"]),
            "scores": dict(zip(card.labels, e["scores"], strict=True)),
            **{key: e[key] for key in ("part", "list", "line")},
        }
        for e in confused
    ]
    file.write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_lists(out: Path, confused: Sequence[Entry], card: LabelCard) -> None:
    """Write the images whose label is surely doubted, one list a pair of labels, and those that nothing is sure of."""
    lists: dict[str, list[str]] = {}
    for entry in confused:
        sure = max(entry["scores"]) >= card.threshold
        name = f"relabel-{entry['label']}-to-{_guess(entry, card)}" if sure else f"inconclusive-{entry['label']}"
        lists.setdefault(name, []).append(entry["file_name"])
    for name, names in lists.items():
        write_names(out / name, names)


def _confusion(entries: Sequence[Entry], card: LabelCard) -> NDArray[np.int64]:
    matrix = np.zeros((len(card.labels), len(card.labels)), np.int64)
    for entry in entries:
        matrix[card.labels.index(entry["label"]), int(np.argmax(entry["scores"]))] += 1
    return matrix


def _plot_confusion(parts: dict[str, list[Entry]], card: LabelCard, file: Path) -> None:
    edge = max(3.6, 0.5 * len(card.labels) + 2)
    figure, axes = plt.subplots(1, len(parts), figsize=(edge * len(parts), edge), squeeze=False, layout="constrained")
    for axis, (part, entries) in zip(axes[0], parts.items(), strict=True):
        counts = _confusion(entries, card)
        axis.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            share = count / max(1, counts[row].sum())
            axis.text(column, row, str(count), ha="center", va="center", color="white" if share > 0.5 else "black")
        axis.set_xticks(range(len(card.labels)), card.labels, rotation=45, ha="right")
        axis.set_yticks(range(len(card.labels)), card.labels)
        axis.set(xlabel="predicted", ylabel="listed", title=part)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _report(
    parts: dict[str, list[Entry]], mistakes: Sequence[Entry], confused: Sequence[Entry], card: LabelCard
) -> str:
    figures = {
        PARTS[part]: figures_of(
            np.array([e["scores"] for e in entries], np.float32),
            np.array([card.labels.index(e["label"]) for e in entries]),
            card.threshold,
        )
        for part, entries in parts.items()
    }
    pairs = Counter((e["label"], _guess(e, card)) for e in mistakes)
    lines = [
        f"# What confuses {card.name}",
        "",
        figures_table(figures),
        "",
        f"{len(mistakes)} images are predicted as another label than they are listed under; {len(confused)} have less "
        f"than {card.threshold} for the listed label (`confused.json`, the worst first).",
        "",
        "![confusion](confusion.png)",
        "",
        "| listed | predicted | images |",
        "|---|---|---|",
        *(f"| {label} | {guess} | {count} |" for (label, guess), count in pairs.most_common()),
        "",
        f"`relabel-<listed>-to-<predicted>`: a score of at least {card.threshold} speaks against the list: look at "
        "these first. `inconclusive-<listed>`: nothing is sure.",
        "",
        "## The most confident mistakes",
        "",
        "![mistakes](mistakes.png)" if mistakes else "None.",
        "",
        "| image | list | listed | predicted | score |",
        "|---|---|---|---|---|",
        *(_mistake_row(e, card) for e in mistakes[:SHOWN]),
    ]
    return "\n".join(lines) + "\n"


def _mistake_row(entry: Entry, card: LabelCard) -> str:
    place = f"{entry['list']}:{entry['line']}"
    cells = [entry["file_name"], place, entry["label"], _guess(entry, card), f"{max(entry['scores']):.3f}"]
    return f"| {' | '.join(cells)} |"
