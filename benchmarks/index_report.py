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
            "| engine | setting | ann_recall_at_10 | p50 ms | p99 ms | queries/s | memory MB | disk MB "
            "| built in CPU s (wall s) |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        rows = [r for r in results if (r.distribution, r.count, r.dim) == (distribution, count, dim)]
        for measured in sorted(rows, key=lambda row: chosen_point(row).p50_ms):
            point = chosen_point(measured)
            setting = f"{measured.setting_name} {point.setting}" if measured.setting_name else ""
            lines.append(
                f"| {measured.engine} | {setting} | {point.ann_recall_at_10:.3f} | {point.p50_ms:.2f} | "
                f"{point.p99_ms:.2f} | {point.queries_per_s:.0f} | {measured.memory_mb:.0f} | {measured.disk_mb:.0f} | "
                f"{_told_build(measured)} |"
            )
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _told_build(measured: Measured) -> str:
    built = measured.built
    return f"({built.wall_s:.0f})" if built.cpu_s is None else f"{built.cpu_s:.0f} ({built.wall_s:.0f})"


def format_filters(results: Sequence[Measured]) -> str:
    """Return a table of the product's kinds under filters: ann_recall_at_10, ms of one query, queries/s."""
    filtered = sorted((r for r in results if r.filters), key=lambda r: (r.distribution, r.count, r.engine))
    shares = sorted({point.share for r in filtered for point in r.filters}, reverse=True)
    lines = [
        f"| catalogue | kind | filter | {' | '.join(f'{share:.1%}' for share in shares)} |",
        "|---|---|---|" + "---:|" * len(shares),
    ]
    for measured in filtered:
        for name in sorted({point.filter for point in measured.filters}):
            cells = [
                f"{point.ann_recall_at_10:.3f}, {point.p50_ms:.2f} ms, {point.queries_per_s:.0f}/s"
                for point in measured.filters
                if point.filter == name
            ]
            catalogue = f"{measured.distribution}, {measured.count:,}"
            lines.append(f"| {catalogue} | {measured.engine} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines) if filtered else ""


def draw(results: Sequence[Measured], path: Path) -> None:
    """Draw recall against queries/s, a panel a catalogue; a marker's area grows with the memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    catalogues = sorted({(r.distribution, r.count) for r in results})
    engines = sorted({r.engine for r in results})
    figure, panels = pyplot.subplots(
        1, len(catalogues), figsize=(6 * len(catalogues), 5), squeeze=False, layout="constrained"
    )
    for panel, catalogue in zip(panels[0], catalogues, strict=True):
        rows = [r for r in results if (r.distribution, r.count) == catalogue]
        most_mb = max(r.memory_mb for r in rows) or 1.0
        for measured in rows:
            colour = pyplot.colormaps["tab20"](engines.index(measured.engine))
            rates = [point.queries_per_s for point in measured.points]
            recalls = [point.ann_recall_at_10 for point in measured.points]
            panel.plot(rates, recalls, color=colour, linewidth=0.8)
            area = 12 + 200 * measured.memory_mb / most_mb
            label = f"{measured.engine}, {measured.memory_mb:.0f} MB"
            panel.scatter(rates, recalls, s=area, color=colour, alpha=0.6, label=label)
        panel.axhline(RECALL, color="grey", linewidth=0.8, linestyle="--")
        distribution, count = catalogue
        panel.set(title=f"{distribution}, {count:,} items", xlabel="queries/s, all cores", ylabel="ann_recall_at_10")
        panel.set_xscale("log")
        panel.set_ylim(0.8, 1.005)
        panel.legend(fontsize=7, markerscale=0.5)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
