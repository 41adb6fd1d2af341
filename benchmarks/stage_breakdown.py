"""Shows where the time of a search goes, at several sizes of the photo, and checks it against the clock outside.

Run:
    python -m benchmarks.stage_breakdown
    python -m benchmarks.stage_breakdown --megapixels 1 12 --requests 100

One client; the stages are the service's own timers: `timings_ms` of the response, and what each model's log line says
of the same request. Writes `stages.png` and `stages.json` (every request) into a folder of its own. Exit status 1: the
stages exceed the time outside, or more than `--bound` of it is explained by nothing.
"""

import argparse
import http.client
import json
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from benchmarks.command import exit_status, new_run_dir, positive, positive_count
from benchmarks.hardware import load_average, this_hardware
from benchmarks.photo_mix import Cuttings, PhotoKind, encode_photo
from benchmarks.private_server import ITEMS, ROOT, WARM_UP, connect, private_server, search_over
from benchmarks.stage_parts import Breakdown, Timed, break_down, check_order, model_times_ms, time_resizes
from lookalike.config import ImageLimits
from lookalike.errors import LookalikeError
from lookalike.model_store import read_preprocess

matplotlib.use("Agg")  # there is no screen
import matplotlib.pyplot as plt

Photos = dict[float, list[bytes]]  # by megapixels

SCENES = 4
BOUND = 0.1
_LABELLED = 0.03  # of a bar: a smaller part has no room for its number
COLOURS = {
    "decode": "#4c78a8",
    "detect: resize": "#ffbf79",
    "detect: network": "#f58518",
    "crop": "#9d755d",
    "embed: resize": "#88d27a",
    "embed: network": "#54a24b",
    "describe": "#b279a2",
    "look up": "#e45756",
    "two hops": "#eeca3b",
    "router: the rest": "#bab0ac",
    "outside of the router": "#72b7b2",
    "unexplained": "#000000",
}


def photos_by_size(megapixels: Sequence[float]) -> Photos:
    """Return by size the same scenes as JPEGs."""
    cuttings = Cuttings.find()
    print(f"{SCENES} scenes of {cuttings.said}", flush=True)
    scenes = [cuttings.scene(seed) for seed in range(SCENES)]
    return {
        size: [
            encode_photo(scene, PhotoKind(name="size", format="JPEG", megapixels=size, weight=1)) for scene in scenes
        ]
        for size in megapixels
    }


def search_all(client: http.client.HTTPConnection, photos: Photos, requests: int, warm_up: int) -> list[Timed]:
    """Search with each size in turns, so that noise hits all alike: with attributes, and without."""
    turns = product(range(-warm_up, requests), photos, (True, False))
    searches = [(number, _search(client, photos, size, number % SCENES, whole)) for number, size, whole in turns]
    return [search for number, search in searches if number >= 0]


def _search(client: http.client.HTTPConnection, photos: Photos, size: float, photo: int, attributes: bool) -> Timed:
    body = photos[size][photo]
    start_s = time.perf_counter()
    # The router answers this path without a look at the body: the whole way of the photo in, and a reply back.
    search_over(client, body, {"x-lookalike-path": "info"})
    unread_s, request_id = time.perf_counter() - start_s, uuid.uuid4().hex
    headers = {"x-request-id": request_id, "x-lookalike-attributes": str(attributes).lower()}
    start_s = time.perf_counter()
    answer = search_over(client, body, headers)
    outside_ms, box = (time.perf_counter() - start_s) * 1000, answer["subject"]["box"]
    return Timed(request_id, size, photo, attributes, outside_ms, answer["timings_ms"], box, unread_s * 1000)


def with_other_clocks(searches: Sequence[Timed], photos: Photos, log_file: Path) -> list[Timed]:
    """Return the searches with what the models logged of them, and what resizing their photos takes."""
    models_ms = model_times_ms(log_file, [search.request_id for search in searches])
    preprocess = [read_preprocess(ROOT / "var/models" / name) for name in ("detector", "embedder")]
    boxes = {(search.megapixels, search.photo): search.box for search in searches}
    resizes = {key: time_resizes(photos[key[0]][key[1]], box, *preprocess) for key, box in boxes.items()}
    return [replace(s, models_ms=models_ms[s.request_id], resizes_ms=resizes[s.megapixels, s.photo]) for s in searches]


def table(breakdowns: Sequence[Breakdown]) -> str:
    """Return the means as Markdown."""
    lines = ["| mean ms | " + " | ".join(f"{b.megapixels:g} MP" for b in breakdowns) + " |"]
    lines.append("|---|" + "---:|" * len(breakdowns))
    lines += [f"| {name} | " + " | ".join(f"{b.parts_ms[name]:.1f}" for b in breakdowns) + " |" for name in COLOURS]
    lines.append("| outside | " + " | ".join(f"{b.outside_ms:.1f}" for b in breakdowns) + " |")
    lines.append("| explained by nothing | " + " | ".join(f"{b.unexplained_share:.1%}" for b in breakdowns) + " |")
    return "\n".join(lines)


def draw(breakdowns: Sequence[Breakdown], title: str, path: Path) -> None:
    """Write the picture: stacked bars, in milliseconds and in percent."""
    figure, panels = plt.subplots(1, 2, figsize=(14, 1.6 + 0.8 * len(breakdowns)), sharey=True, layout="constrained")
    outside_ms = np.array([one.outside_ms for one in breakdowns])
    _stack(panels[0], breakdowns, np.ones_like(outside_ms))
    _stack(panels[1], breakdowns, 100 / outside_ms)
    panels[0].invert_yaxis()
    panels[0].set_xlabel("ms")
    panels[1].set(xlabel="percent of the time outside", xlim=(0, 100))
    figure.suptitle(title, fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _stack(axes: Axes, breakdowns: Sequence[Breakdown], scales: NDArray[np.float64]) -> None:
    names = [f"{one.megapixels:g} MP\n{one.outside_ms:.0f} ms" for one in breakdowns]
    whole, reached = scales * [one.outside_ms for one in breakdowns], np.zeros(len(names))
    for part, colour in COLOURS.items():
        # What is below zero by noise cannot be drawn; the table has it.
        widths = np.maximum(0, [one.parts_ms[part] for one in breakdowns]) * scales
        bars = axes.barh(names, widths, left=reached, color=colour, label=part)
        labels = [f"{width:.0f}" if width > _LABELLED * all_ else "" for width, all_ in zip(widths, whole, strict=True)]
        axes.bar_label(bars, labels, label_type="center", fontsize=7)
        reached += widths


def run(options: argparse.Namespace) -> int:
    """Run once; return the exit status.

    Raises:
        LookalikeError: it could not run, or the stages exceed what is around them.
    """
    photos, hardware = photos_by_size(options.megapixels), this_hardware()
    print(load_average(), flush=True)
    with private_server(options.items) as (server, _), closing(connect(server)) as client:
        searches = search_all(client, photos, options.requests, WARM_UP // len(photos))
        searches = with_other_clocks(searches, photos, server.log_file)
    out = new_run_dir(options.out)
    breakdowns = [break_down([s for s in searches if s.megapixels == size]) for size in photos]
    title = f"One client, {options.requests} searches a size, index of {options.items}; {hardware}"
    draw(breakdowns, title, out / "stages.png")
    written = {"hardware": hardware.model_dump(), "searches": [asdict(search) for search in searches]}
    (out / "stages.json").write_text(json.dumps(written) + "\n")
    sizes = ", ".join(
        f"{size:g} MP {sum(map(len, sample)) / len(sample) / 1000:.0f} kB" for size, sample in photos.items()
    )
    print(f"\n{title}\n{sizes}\n\n{table(breakdowns)}\n\n{out}/stages.png, stages.json", flush=True)
    for search in searches:
        check_order(search)
    for one in breakdowns:
        if abs(one.unexplained_share) > options.bound:
            raise LookalikeError(
                f"at {one.megapixels:g} MP {one.unexplained_share:.1%} of the time outside belongs to no stage and no "
                f"hop; the bound is {options.bound:.0%}"
            )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", nargs="+", type=_megapixels, default=[0.1, 1, 4, 12])
    parser.add_argument("--requests", type=positive_count, default=50, help="of each size, with attributes and without")
    parser.add_argument("--items", type=positive_count, default=ITEMS, help="in the private server's index")
    parser.add_argument("--bound", type=positive, default=BOUND, help="the share of the time that may stay unexplained")
    parser.add_argument("--out", type=Path, default=ROOT / "var/bench/stages")
    options = parser.parse_args(argv)
    return exit_status(partial(run, options))


def _megapixels(text: str) -> float:
    value, limit = positive(text), ImageLimits().max_pixels / 1e6
    if value > limit:
        raise argparse.ArgumentTypeError(f"{text} megapixels are more than the service takes, {limit:g}")
    return value


if __name__ == "__main__":
    sys.exit(main())
