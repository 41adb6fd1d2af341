"""Finds the highest rate of independent clients that a server holds within its budget, and p99 at 70 % of it.

Run:
    python -m benchmarks.open_loop                                # a private server, the budget of this machine
    python -m benchmarks.open_loop --kinds page-jpeg --p99-ms 300
    python -m benchmarks.open_loop --host http://10.0.0.7:8080 --p99-ms 500
    python -m benchmarks.open_loop --rates 10 15 20               # these alone, to compare settings at equal load

Writes `open_loop.png` (latency against rate) and `open_loop.json` (raw samples) into a folder of its own.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import matplotlib
import numpy as np
import uvloop

from benchmarks.arrivals import Probe, Send, highest_rate, probe
from benchmarks.budgets import BUDGETS_FILE, OpenLoopBudget, read_budgets
from benchmarks.command import exit_status, new_run_dir, positive, positive_count
from benchmarks.hardware import load_average
from benchmarks.photos import Photo, load_photos, photos_for, pick
from benchmarks.private_server import ROOT, WARM_UP
from benchmarks.server_under_test import add_server_options, judged_by, server_under_test
from lookalike.errors import LookalikeError, SetupError
from lookalike.server_watch import what_is_missing

matplotlib.use("Agg")  # there is no screen
import matplotlib.pyplot as plt

ENDPOINTS = ("search", "detector", "metadata_creator")
USUAL_LOAD = 0.7  # of the highest rate: what a service is run at, so that a burst finds room
_TIMEOUT = aiohttp.ClientTimeout(total=30)


def sender(session: aiohttp.ClientSession, url: str, photos: Sequence[Photo], random: Random) -> Send:
    """Return what sends one photo, drawn by weight, and says what went wrong."""

    async def send(_: int) -> str | None:
        photo = pick(photos, random)
        try:
            async with session.post(url, data=photo.data, headers={"content-type": photo.content_type}) as reply:
                await reply.read()
                return None if reply.status == 200 else f"status {reply.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return type(error).__name__

    return send


async def search_rates(base_url: str, photos: Sequence[Photo], budget: OpenLoopBudget, options: Any) -> list[Probe]:
    """Probe the rates that the options name; else until the highest that meets the budget is known, then 70 % of it.

    Raises:
        LookalikeError: none meets it, or the server is gone.
    """
    probes: list[Probe] = []
    # No limit of connections: a request that waits for one would not be sent when it should.
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
        random = np.random.default_rng(options.seed)
        send = sender(session, f"{base_url}/predictions/{options.endpoint}", photos, Random(options.seed))
        for i in range(options.warm_up_requests):
            await send(i)

        async def offered(rate_per_s: float) -> bool:
            count = max(options.samples, round(rate_per_s * options.seconds))
            probes.append(await probe(rate_per_s, count, options.warm_up_s, send, random))
            print(row(probes[-1], budget), flush=True)
            if missing := await asyncio.to_thread(what_is_missing, base_url):
                raise LookalikeError(f"{rate_per_s:.2f} requests/s were too much for the server: {missing}")
            return probes[-1].meets(budget)

        print("| rate/s | samples | errors | p50 ms | p95 ms | p99 ms | sent late, p99 ms | |")
        print("|---:|---:|---:|---:|---:|---:|---:|---|")
        for rate_per_s in options.rates:
            await offered(rate_per_s)
        if options.rates:
            return probes
        highest = await highest_rate(offered, options.start, options.precision)
        if highest is None:
            raise LookalikeError(f"even {probes[-1].rate_per_s:.2g} requests/s miss p99 <= {budget.p99_ms:g} ms")
        await offered(USUAL_LOAD * highest)
    return probes


def row(one: Probe, budget: OpenLoopBudget) -> str:
    """Return a probe as a line of the table."""
    figures = " | ".join(f"{value:.1f}" for value in one.figures_ms.values())
    share = f"{len(one.samples)} | {one.error_share:.1%}"
    outcome = "met" if one.meets(budget) else "missed"
    return f"| {one.rate_per_s:.2f} | {share} | {figures} | {one.late_p99_ms:.1f} | {outcome} |"


def draw(probes: Sequence[Probe], highest_per_s: float | None, budget: OpenLoopBudget, title: str, path: Path) -> None:
    """Write the picture: latency against rate, the budget, the highest rate that meets it where it was searched for."""
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    ordered = sorted(probes, key=lambda one: one.rate_per_s)
    rates = [one.rate_per_s for one in ordered]
    for one in ordered:
        latencies = [sample.latency_ms for sample in one.samples if sample.error is None]
        axes.plot([one.rate_per_s] * len(latencies), latencies, "_", color="tab:blue", alpha=0.15, zorder=1)
    for name, colour in (("p50_ms", "tab:green"), ("p95_ms", "tab:orange"), ("p99_ms", "tab:red")):
        values = [one.figures_ms[name] for one in ordered]
        axes.plot(rates, values, "o-", color=colour, label=name.removesuffix("_ms"))
    failing = [one for one in ordered if one.error_share > 0]
    for one in failing:
        axes.annotate(
            f"{one.error_share:.0%} errors", (one.rate_per_s, 1), xycoords=("data", "axes fraction"), fontsize=7
        )
    axes.axhline(budget.p99_ms, color="black", linestyle="--", label=f"budget: p99 {budget.p99_ms:g} ms")
    if highest_per_s is not None:
        told = f"highest rate that meets it: {highest_per_s:.1f}/s"
        axes.axvline(highest_per_s, color="black", linestyle=":", label=told)
        axes.axvline(USUAL_LOAD * highest_per_s, color="grey", linestyle=":", label=f"{USUAL_LOAD:.0%} of it")
    axes.plot([], [], "_", color="tab:blue", label="each request")
    axes.set(xlabel="requests offered per second (Poisson)", ylabel="ms from the scheduled send", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title(title, fontsize=9)
    axes.set_xlim(left=0)
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def run(options: argparse.Namespace) -> int:
    """Run once; return the exit status.

    Raises:
        LookalikeError: it could not run, no rate meets the budget, or the probes contradict each other.
    """
    hardware, machine = judged_by(read_budgets(options.budgets), options.host, options.machine)
    if options.p99_ms:
        budget = OpenLoopBudget(p99_ms=options.p99_ms, error_share=0)
    elif machine:
        budget = machine.open_loop
    else:
        raise SetupError(f"{BUDGETS_FILE.name} has no budget for {hardware or 'unknown hardware'}", "--p99-ms MS")
    folder, said = photos_for(options.photos)
    photos = of_kinds(load_photos(folder), options.kinds)
    title = ", ".join([options.endpoint, *options.kinds, str(hardware or "unknown hardware")]) + f"\n{said}"
    print(f"{title}\np99 <= {budget.p99_ms:g} ms, errors <= {budget.error_share:.1%}; {load_average()}", flush=True)
    with (
        server_under_test(options.host, options.items) as (base_url, _),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        probes = runner.run(search_rates(base_url, photos, budget, options))
    usual = None if options.rates else probes[-1]
    highest_per_s = max(one.rate_per_s for one in probes[:-1] if one.meets(budget)) if usual else None
    about = {
        "hardware": hardware and hardware.model_dump(),
        "endpoint": options.endpoint,
        "photos": said,
        "kinds": options.kinds,
        "seed": options.seed,
        "budget": budget.model_dump(),
        "highest_rate_per_s": highest_per_s,
        "p99_ms_at_usual_load": usual and usual.figures_ms["p99_ms"],
    }
    out = new_run_dir(options.out, options.endpoint)
    kept = [asdict(one) | one.figures_ms | {"error_share": one.error_share} for one in probes]
    (out / "open_loop.json").write_text(json.dumps(about | {"probes": kept}) + "\n")
    draw(probes, highest_per_s, budget, title, out / "open_loop.png")
    if usual:
        print(f"\nhighest rate that meets the budget: {highest_per_s:.2f}/s, to {options.precision:.0%}")
        print(f"p99 at {USUAL_LOAD:.0%} of it: {usual.figures_ms['p99_ms']:.0f} ms")
    print(f"{out}/open_loop.png, open_loop.json")
    if usual and not usual.meets(budget):
        raise LookalikeError(f"{USUAL_LOAD:.0%} of the rate misses what the rate met: other work disturbed this run")
    return 0


def of_kinds(photos: Sequence[Photo], kinds: Sequence[str]) -> list[Photo]:
    """Return the photos of `kinds`, all where none are named.

    Raises:
        SetupError: there is no photo of one of them.
    """
    known = {photo.kind for photo in photos}
    if not known.issuperset(kinds):
        raise SetupError(f"no photos of kind {', '.join(sorted(set(kinds) - known))}", allowed=sorted(known))
    return [photo for photo in photos if not kinds or photo.kind in kinds]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_options(parser)
    parser.add_argument("--endpoint", choices=ENDPOINTS, default="search")
    parser.add_argument("--photos", type=Path, help="a folder of images; a default mix is composed when left out")
    parser.add_argument("--kinds", nargs="+", default=[], help="only photos of these kinds")
    parser.add_argument("--p99-ms", type=positive, help="the budget; this machine's of budgets.yaml when left out")
    parser.add_argument("--start", type=positive, default=4, help="the first rate; it is doubled or halved from there")
    parser.add_argument("--rates", nargs="+", type=positive, default=[], help="offer these, and search for no highest")
    parser.add_argument("--samples", type=positive_count, default=400, help="of a probe, at least")
    parser.add_argument("--seconds", type=positive, default=30, help="of a probe, at least")
    parser.add_argument(
        "--warm-up-requests", type=positive_count, default=WARM_UP, help="requests before the first probe"
    )
    parser.add_argument("--warm-up-s", type=float, default=8, help="of a probe, not counted")
    parser.add_argument("--precision", type=positive, default=0.1, help="of the highest rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budgets", type=Path, default=BUDGETS_FILE)
    parser.add_argument("--out", type=Path, default=ROOT / "var/bench/open_loop")
    options = parser.parse_args(argv)
    return exit_status(partial(run, options))


if __name__ == "__main__":
    sys.exit(main())
