"""What `bench_index` found, as Markdown tables and as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.bench_index import Measured, Point

RECALL = 0.99


def chosen_point(measured: Measured, recall: float = RECALL) -> Point:
    """Return the fastest setting that reaches `recall`, or the one that finds most."""
    good = [point for point in measured.points if point.ann_recall_at_10 >= recall]
    if good:
        return min(good, key=lambda point: point.p50_ms)
    return max(measured.points, key=lambda point: point.ann_recall_at_10)


def format_tables(results: Sequence[Measured]) -> str:
    """Return a table a catalogue: every engine at its fastest setting of ann_recall_at_10 >= 0.99."""
    tables = []
    for distribution, count, dim in sorted({(r.distribution, r.count, r.dim) for r in results}):
        lines = [
            f"**{distribution}, {count:,} x {dim}**",
            "",
            "| engine | setting | ann_recall_at_10 | p50 ms | p99 ms | queries/s | memory MB | disk MB | built in s |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        rows = [r for r in results if (r.distribution, r.count, r.dim) == (distribution, count, dim)]
        for measured in sorted(rows, key=lambda row: chosen_point(row).p50_ms):
            point = chosen_point(measured)
            setting = f"{measured.setting_name} {point.setting}" if measured.setting_name else ""
            lines.append(
                f"| {measured.engine} | {setting} | {point.ann_recall_at_10:.3f} | {point.p50_ms:.2f} | "
                f"{point.p99_ms:.2f} | {point.queries_per_s:.0f} | {measured.memory_mb:.0f} | {measured.disk_mb:.0f} | "
                f"{measured.build_s:.0f} |"
            )
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def draw(results: Sequence[Measured], path: Path) -> None:
    """Draw recall against the time of one query, a panel a catalogue."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    catalogues = sorted({(r.distribution, r.count) for r in results})
    engines = sorted({r.engine for r in results})
    figure, panels = pyplot.subplots(
        1, len(catalogues), figsize=(5.5 * len(catalogues), 4.5), squeeze=False, layout="constrained"
    )
    for panel, (distribution, count) in zip(panels[0], catalogues, strict=True):
        for measured in [r for r in results if (r.distribution, r.count) == (distribution, count)]:
            colour = f"C{engines.index(measured.engine) % 10}"
            times = [point.p50_ms for point in measured.points]
            recalls = [point.ann_recall_at_10 for point in measured.points]
            panel.plot(times, recalls, marker="o", markersize=4, color=colour, label=measured.engine)
        panel.axhline(RECALL, color="grey", linewidth=0.8, linestyle="--")
        panel.set(title=f"{distribution}, {count:,} items", xlabel="ms a query, one thread", ylabel="ann_recall_at_10")
        panel.set_xscale("log")
        panel.legend(fontsize=7)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
