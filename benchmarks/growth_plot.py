"""Draws what an item costs and how long a look-up takes as a catalogue grows, measured and extrapolated.

Run: python -m benchmarks.growth_plot --output docs/growth.png
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

from lookalike.growth_laws import (
    LARGEST_MEASURED,
    MEASURED,
    MEASURED_DIM,
    Kind,
    lookup_ms,
    process_bytes,
    shared_bytes,
)

COLOURS: dict[Kind, str] = {"flat": "tab:grey", "ivf": "tab:blue", "hnsw": "tab:orange"}
NODES_GB = (32, 128, 512, 2048)
COUNTS = np.geomspace(1e5, 1e9, 200)


def draw(path: Path) -> None:
    """Draw the two panels: lines are solid up to the largest catalogue that was measured, dashed beyond."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (memory, lookup) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    known, beyond = COUNTS[COUNTS <= LARGEST_MEASURED], COUNTS[COUNTS >= LARGEST_MEASURED]
    for kind, colour in COLOURS.items():
        an_item = shared_bytes(kind, MEASURED_DIM) + process_bytes(kind, MEASURED_DIM)
        memory.plot(COUNTS, COUNTS * an_item / 1e9, color=colour, label=f"{kind}, {an_item:,.0f} bytes an item")
        for counts, style, label in ((known, "-", kind), (beyond, "--", None)):
            lookup.plot(counts, [lookup_ms(kind, n) for n in counts], style, color=colour, label=label)
        lookup.plot(*zip(*((m.items, m.lookup_ms) for m in MEASURED[kind]), strict=True), "o", color=colour)
    for gigabytes in NODES_GB:
        memory.axhline(gigabytes, color="black", linewidth=0.6, linestyle=":")
        memory.text(1.2e5, gigabytes * 1.12, f"a node of {gigabytes:,} GB", fontsize=8)
    for panel, label in ((memory, "index, GB"), (lookup, "one look-up on one core, ms")):
        panel.set(xscale="log", yscale="log", xlabel=f"items of {MEASURED_DIM} numbers", ylabel=label)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    lookup.set_title("dots measured, dashed extrapolated", fontsize=9)
    memory.set_title("one copy, one process", fontsize=9)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/growth.png"))
    draw(parser.parse_args().output)


if __name__ == "__main__":
    main()
