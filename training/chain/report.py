"""Writes what was measured of the chain: tables, JSON, plots, and the worst queries as pictures."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

from lookalike.errors import LookalikeError
from lookalike.images import crop_box
from training.chain.figures import BoxFigures, WayFigures, box_figures, way_figures
from training.chain.search import AUTOCROP, CLIENT_BOX, WHOLE, Answer
from training.chain.sets import ChainSet
from training.picture_grid import Cell, draw_grid, open_picture

matplotlib.use("Agg")  # there is no screen
import matplotlib.pyplot as plt

WORST_SHOWN = 12
_TRUE_BOX, _FOUND_BOX = "#2ca02c", "#d8432f"


@dataclass(frozen=True)
class SetResult:
    """The answers to one set's queries, and their figures by way."""

    chain_set: ChainSet
    answers: list[Answer]
    ways: dict[str, WayFigures]
    boxes: BoxFigures | None

    @classmethod
    def of(cls, chain_set: ChainSet, answers: list[Answer]) -> "SetResult":
        """Return the result of a set."""
        ways = {way: way_figures(answers, way) for way in answers[0].rankings}
        return cls(chain_set, answers, ways, box_figures(answers))


def write_report(results: Sequence[SetResult], about: dict[str, Any], out: Path) -> Path:
    """Write the report of `results` to the folder `out`; return its path."""
    out.mkdir(parents=True, exist_ok=True)
    _plot_recall(results, out / "recall.png")
    _plot_similarities(results, out / "similarities.png")
    for result in results:
        _draw_worst(result, out / f"worst-{result.chain_set.name}.png")
        _write_worst(result, out / f"worst-{result.chain_set.name}.csv")
    (out / "report.json").write_text(json.dumps(_as_json(results, about), indent=1) + "\n")
    (out / "report.md").write_text(_as_markdown(results, about))
    return out / "report.md"


def results_table(results: Sequence[SetResult]) -> str:
    """Return every set's figures as one Markdown table."""
    lines = ["| set | searched | queries | R@1 | 95 % | R@5 | mAP | mAP@R |", "|---|---|---|---|---|---|---|---|"]
    for result in results:
        for way, f in result.ways.items():
            interval = f"{f.low:.3f}-{f.high:.3f}"
            rest = f"{f.recall_at_5:.3f} | {f.mean_average_precision:.3f} | {f.mean_average_precision_at_r:.3f}"
            lines.append(
                f"| {result.chain_set.name} | {way} | {f.queries} | {f.recall_at_1:.3f} | {interval} | {rest} |"
            )
    return "\n".join(lines)


def _boxes_table(results: Sequence[SetResult]) -> str:
    lines = ["| set | mean IoU of the best box | IoU < 0.1 |", "|---|---|---|"]
    found = [(result.chain_set.name, result.boxes) for result in results if result.boxes is not None]
    lines += [f"| {name} | {boxes.mean_iou:.3f} | {boxes.misses:.3f} |" for name, boxes in found]
    return "\n".join(lines)


def _as_markdown(results: Sequence[SetResult], about: dict[str, Any]) -> str:
    lines = ["# The whole chain: photo, crop, embedding, search", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += [f"- {r.chain_set.name}: {r.chain_set.title}, {len(r.chain_set.catalogue.items)} items" for r in results]
    lines += ["", results_table(results), "", "![R@1](recall.png)", ""]
    lines += [_boxes_table(results), "", "![similarities](similarities.png)", ""]
    for result in results:
        wrong = sum(_rank(answer, AUTOCROP) > 1 for answer in result.answers)
        name = result.chain_set.name
        lines += [f"## {name}: {wrong} of {len(result.answers)} queries wrong with autocrop", ""]
        lines += [f"![worst queries of {name}](worst-{name}.png)", ""] if wrong else []
    return "\n".join(lines)


def _as_json(results: Sequence[SetResult], about: dict[str, Any]) -> dict[str, Any]:
    return {
        **about,
        "sets": {
            result.chain_set.name: {
                "items": len(result.chain_set.catalogue.items),
                "figures": {way: figures._asdict() for way, figures in result.ways.items()},
                "boxes": result.boxes and result.boxes._asdict(),
                "queries": [_query_json(answer) for answer in result.answers],
            }
            for result in results
        },
    }


def _query_json(answer: Answer) -> dict[str, Any]:
    return {
        "query": answer.query.path.name,
        "relevant": sorted(answer.query.relevant),
        "ranks": {way: _rank(answer, way) for way in answer.rankings},
        "best": {
            way: [ranking.items[0], round(ranking.similarities[0], 4)] for way, ranking in answer.rankings.items()
        },
        "boxes": [[round(edge, 1) for edge in box] for box in answer.boxes],
        "iou": answer.iou,
    }


def _rank(answer: Answer, way: str) -> int:
    """Return the rank of the first right item, from 1; one more than there are items when none was found."""
    items = answer.rankings[way].items
    return next((i for i, item in enumerate(items, start=1) if item in answer.query.relevant), len(items) + 1)


def _plot_recall(results: Sequence[SetResult], file: Path) -> None:
    ways = list(dict.fromkeys(way for result in results for way in result.ways))
    figure, axis = plt.subplots(figsize=(2.6 + 2.4 * len(results), 4), layout="constrained")
    width = 0.85 / len(ways)
    for number, way in enumerate(ways):
        found = [(i, result.ways[way]) for i, result in enumerate(results) if way in result.ways]
        heights = [f.recall_at_1 for _, f in found]
        spread = [[f.recall_at_1 - f.low for _, f in found], [f.high - f.recall_at_1 for _, f in found]]
        places = [i + (number - (len(ways) - 1) / 2) * width for i, _ in found]
        axis.bar(places, heights, width, yerr=spread, error_kw={"elinewidth": 0.8, "alpha": 0.6}, label=way)
    axis.set_xticks(range(len(results)), [result.chain_set.name for result in results])
    axis.set(ylabel="R@1 with its 95 % interval", ylim=(0, 1.02))
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _plot_similarities(results: Sequence[SetResult], file: Path) -> None:
    """Plot the best hit's similarity where it is right and where it is wrong: where `min_similarity` could stand."""
    figure, axes = plt.subplots(1, len(results), figsize=(3.4 * len(results), 3), squeeze=False, layout="constrained")
    for axis, result in zip(axes[0], results, strict=True):
        for right, colour in ((True, _TRUE_BOX), (False, _FOUND_BOX)):
            found = [a.rankings[AUTOCROP].similarities[0] for a in result.answers if (_rank(a, AUTOCROP) == 1) is right]
            axis.hist(found, np.linspace(0, 1, 41), color=colour, alpha=0.6, label="right" if right else "wrong")
        axis.set(title=result.chain_set.name, xlabel="similarity of the best hit (autocrop)")
        axis.legend(fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _wrong(result: SetResult) -> list[Answer]:
    """Return the answers that autocrop got wrong, the furthest off first."""
    wrong = [answer for answer in result.answers if _rank(answer, AUTOCROP) > 1]
    return sorted(wrong, key=lambda answer: -_rank(answer, AUTOCROP))


def _write_worst(result: SetResult, file: Path) -> None:
    """Write the wrong queries as a table for `lookalike review`: photo, what is right, what was found, how similar."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["file", "relevant", "predicted", "confidence", "rank"])
        for answer in _wrong(result):
            best = answer.rankings[AUTOCROP]
            relevant = " ".join(sorted(answer.query.relevant))
            similarity = f"{max(0.0, best.similarities[0]):.4f}"
            writer.writerow([answer.query.path.resolve(), relevant, best.items[0], similarity, _rank(answer, AUTOCROP)])


def _draw_worst(result: SetResult, file: Path) -> None:
    """Draw the queries that autocrop got wrong: photo, crop, best hit, what was right."""
    wrong = _wrong(result)
    file.unlink(missing_ok=True)
    if not wrong:
        return
    paths = {item.item_id: item.path for item in result.chain_set.catalogue.items}
    cells = [cell for answer in wrong[:WORST_SHOWN] for cell in _cells(answer, paths)]
    draw_grid(cells, columns=8, edge_px=180).save(file)


def _cells(answer: Answer, paths: dict[str, Path]) -> list[Cell]:
    photo = open_picture(answer.query.path)
    ranking, rank = answer.rankings[AUTOCROP], _rank(answer, AUTOCROP)
    right = next((item for item in ranking.items if item in answer.query.relevant), min(answer.query.relevant))
    others = ", ".join(f"{way} {_rank(answer, way)}" for way in (WHOLE, CLIENT_BOX) if way in answer.rankings)
    fit = "" if answer.iou is None else f", IoU {answer.iou:.2f}"
    return [
        Cell(photo and _with_boxes(photo, answer), answer.query.path.name),
        Cell(photo and _crop(photo, answer), f"crop{fit}"),
        Cell(open_picture(paths[ranking.items[0]]), f"best hit {ranking.similarities[0]:.2f}"),
        Cell(open_picture(paths[right]), f"right, rank {rank}; ranks: {others}"),
    ]


def _with_boxes(photo: Image.Image, answer: Answer) -> Image.Image:
    drawn = photo.copy()
    pen, width = ImageDraw.Draw(drawn), max(2, round(max(photo.size) / 120))
    for box in answer.boxes[1:]:
        pen.rectangle(box, outline="#f2c14e", width=max(1, width // 2))
    pen.rectangle(answer.boxes[0], outline=_FOUND_BOX, width=width)
    if answer.query.box is not None:
        pen.rectangle(answer.query.box, outline=_TRUE_BOX, width=width)
    return drawn


def _crop(photo: Image.Image, answer: Answer) -> Image.Image | None:
    try:
        return crop_box(photo, answer.boxes[0])
    except LookalikeError:
        return None
