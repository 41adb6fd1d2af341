"""Compares the runtimes on the built models, in turns so that noise hits all alike.

Run:
    python benchmarks/bench_models.py --threads 1 2 --batches 1 8
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookalike.config import ModelSettings
from lookalike.errors import LookalikeError
from lookalike.model_store import read_preprocess
from lookalike.runtimes import Runtime, Session, is_installed, load_session

_WARM_UP_CALLS = 3


class Elapsed(NamedTuple):
    """One call: the wall clock, and the CPU time of all threads, which other processes disturb less."""

    wall_ms: float
    cpu_ms: float


class Case(NamedTuple):
    """One thing to time."""

    model: Path
    runtime: Runtime
    threads: int
    batch: int


def measure(cases: Sequence[Case], rounds: int) -> dict[Case, list[Elapsed]]:
    """Return each case's calls; every round calls every case once."""
    calls = [(case, _load(case), _pixels(case)) for case in cases]
    elapsed: dict[Case, list[Elapsed]] = {case: [] for case in cases}
    for turn in range(_WARM_UP_CALLS + rounds):
        for case, session, pixels in calls:
            start_s, start_cpu_s = time.perf_counter(), time.process_time()
            session.run(pixels)
            wall_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
            if turn >= _WARM_UP_CALLS:
                elapsed[case].append(Elapsed(wall_s * 1000, cpu_s * 1000))
    return elapsed


def format_table(elapsed: dict[Case, list[Elapsed]]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| model | runtime | threads | batch | median ms | p95 ms | median CPU ms | images/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, calls in elapsed.items():
        wall_ms = [call.wall_ms for call in calls]
        median_ms, cpu_ms = statistics.median(wall_ms), statistics.median(call.cpu_ms for call in calls)
        rate = case.batch * 1000 / median_ms
        figures = f"{median_ms:.1f} | {np.percentile(wall_ms, 95):.1f} | {cpu_ms:.1f} | {rate:.0f}"
        lines.append(f"| {case.model.name} | {case.runtime} | {case.threads} | {case.batch} | {figures} |")
    return "\n".join(lines)


def _load(case: Case) -> Session:
    return load_session(case.model, ModelSettings(runtime=case.runtime, device="cpu", threads=case.threads))


def _pixels(case: Case) -> NDArray[np.uint8]:
    preprocess = read_preprocess(case.model)
    shape = (case.batch, preprocess.height_px, preprocess.width_px, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description="Compare the runtimes on the built models.")
    models = [Path("var/models/detector"), Path("var/models/embedder")]
    parser.add_argument("--models", nargs="+", type=Path, default=models)
    parser.add_argument("--runtimes", nargs="+", choices=["onnx", "openvino", "torch"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args(argv)
    known: tuple[Runtime, ...] = ("onnx", "openvino", "torch")
    runtimes = options.runtimes or [runtime for runtime in known if is_installed(runtime)]
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start, {options.rounds} rounds")
    elapsed: dict[Case, list[Elapsed]] = {}
    try:
        # Threads of one torch process are set for all its sessions, so one count is measured at a time.
        for threads in options.threads:
            cases = [Case(*pick) for pick in product(options.models, runtimes, [threads], options.batches)]
            elapsed |= measure(cases, options.rounds)
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(format_table(elapsed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
