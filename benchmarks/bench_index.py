"""Compares kinds of index: what they find, how fast, in how much memory, built in how long (docs/benchmarks.md).

Run:
    python -m benchmarks.bench_index --sizes 100000 --engines exact hnsw ivf
    python -m benchmarks.bench_index --sizes 100000 1000000 --distributions real made-up
    python -m benchmarks.bench_index --report

Each engine runs in a process of its own. What is built and measured is kept under `--out`: a run that was ended goes on
where it stopped, `--again` measures anew. The engines beside FAISS are the extra `bench-index`.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from benchmarks.command import exit_status, positive_count
from benchmarks.hardware import load_average, this_hardware
from benchmarks.index_data import DISTRIBUTIONS, open_vectors
from benchmarks.index_engines import ENGINES, Search, usable
from benchmarks.index_filters import FilterPoint, filter_points
from benchmarks.index_report import draw, format_filters, format_tables
from lookalike.errors import SetupError
from lookalike.evaluation import ann_recall_at_k
from lookalike.index.exact import exact_search, omp_threads

K = 10
_ALONE = 200  # queries, one after the other
_BUDGET_S = 20.0  # for the queries of one setting: exact search of a million needs no thousand of them


class Point(BaseModel, frozen=True):
    """One setting of one engine."""

    setting: int
    ann_recall_at_10: float
    p50_ms: float  # one query at a time, one thread
    p99_ms: float
    queries_per_s: float  # all cores, queries at once


class Built(BaseModel, frozen=True):
    """What building took; beside other work only the processor's time says much."""

    wall_s: float
    cpu_s: float | None = None


class Measured(BaseModel, frozen=True):
    """One engine on one catalogue."""

    engine: str
    distribution: str
    count: int
    dim: int
    built: Built
    disk_mb: float
    memory_mb: float  # of the opened index, mapped or not; embeddings that are read from their own file are not in it
    setting_name: str
    points: list[Point]
    filters: list[FilterPoint] = []  # of the product's kinds, as they are set by default


def exact_rows(folder: Path, vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the true `K` nearest rows `(q, K)`; made once."""
    cached = folder / f"exact-{len(vectors)}.npy"
    if not cached.exists():
        with omp_threads(os.cpu_count() or 1):
            np.save(cached, exact_search(vectors, queries, K, None)[1])
    return np.asarray(np.load(cached))


def build_once(name: str, folder: Path, vectors: NDArray[np.float32]) -> tuple[Path, Built]:
    """Return the engine's index file and what building it took, whenever that was."""
    path = folder / f"{_file_stem(name, len(vectors))}.index"
    noted = path.with_suffix(".json")
    if not (path.exists() and noted.exists()):
        start_s, start_cpu_s = time.perf_counter(), time.process_time()
        ENGINES[name].build(vectors, path)
        built = Built(wall_s=time.perf_counter() - start_s, cpu_s=time.process_time() - start_cpu_s)
        noted.write_text(built.model_dump_json())
    return path, Built.model_validate_json(noted.read_text())


def _file_stem(name: str, count: int) -> str:
    return f"{name.replace(' ', '-').replace(',', '')}-{count}"


def measure(name: str, distribution: str, count: int, dim: int, folder: Path) -> Measured:
    """Build where it is not there, open, and measure every setting."""
    vectors, queries = open_vectors(folder, distribution, count, dim)
    truth = exact_rows(folder, vectors, queries)
    path, built = build_once(name, folder, vectors)
    before = _resident_mb(path)
    engine = ENGINES[name]
    search = engine.open(path, vectors)
    points = []
    for setting in engine.settings:
        points.append(_point(search, setting, queries, truth))
        print(f"  {name} {setting}: {points[-1]}", flush=True)
    memory_mb = max(0.0, _resident_mb(path) - before)
    return Measured(
        engine=name,
        distribution=distribution,
        count=count,
        dim=dim,
        built=built,
        disk_mb=path.stat().st_size / 1e6,
        memory_mb=memory_mb,
        setting_name=engine.setting,
        points=points,
        filters=filter_points(engine.open_filtered(path, vectors), vectors, queries) if engine.open_filtered else [],
    )


def _point(search: Search, setting: int, queries: NDArray[np.float32], truth: NDArray[np.int64]) -> Point:
    times_ms: list[float] = []
    search(queries[:_ALONE], K, setting, os.cpu_count() or 1)  # opened, and the pages read that will be
    started_s = time.perf_counter()
    for query in queries[:_ALONE]:
        start_s = time.perf_counter()
        search(query[None], K, setting, 1)
        times_ms.append((time.perf_counter() - start_s) * 1000)
        if time.perf_counter() - started_s > _BUDGET_S:
            break
    at_once = min(len(queries), max(_ALONE, int(_BUDGET_S * 1000 / max(np.median(times_ms), 0.01))))
    start_s = time.perf_counter()
    rows = search(queries[:at_once], K, setting, os.cpu_count() or 1)
    elapsed_s = time.perf_counter() - start_s
    return Point(
        setting=setting,
        ann_recall_at_10=ann_recall_at_k(rows, truth[:at_once], K),
        p50_ms=float(np.median(times_ms)),
        p99_ms=float(np.percentile(times_ms, 99)),
        queries_per_s=at_once / elapsed_s,
    )


def _resident_mb(path: Path) -> float:
    """Return the memory of this process that is its own, and what it has mapped of the file `path`."""
    kilobytes, of_path = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if "-" in name and " " in name:  # the head of a mapping: its range of addresses first
            of_path = line.endswith(str(path.resolve()))
        elif (name == "Rss" and of_path) or (name == "Anonymous" and not of_path):
            kilobytes += int(value.split()[0])
    return kilobytes / 1000


def _in_own_process(name: str, distribution: str, count: int, dim: int, folder: Path, result: Path | None) -> None:
    if result is None:
        build_once(name, folder, open_vectors(folder, distribution, count, dim)[0])
    else:
        result.write_text(measure(name, distribution, count, dim, folder).model_dump_json(indent=2))


def run(arguments: argparse.Namespace) -> int:
    """Measure what is not measured yet, then report all of it."""
    print(f"{this_hardware()}; {load_average()}", flush=True)
    failed = []
    for distribution in [] if arguments.report else arguments.distributions:
        folder = arguments.out / distribution
        for count in arguments.sizes:
            for name in arguments.engines:
                result = folder / f"measured-{_file_stem(name, count)}.json"
                if not usable(ENGINES[name]):
                    print(f"left out: {name}: the package {ENGINES[name].package} is not installed", flush=True)
                elif arguments.again or not result.exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    print(f"{name}, {count} x {arguments.dim}, {distribution}", flush=True)
                    into = None if arguments.build_only else result
                    if not _done_apart(name, distribution, count, arguments.dim, folder, into):
                        failed.append(f"{name} at {count}")
    paths = sorted(arguments.out.glob("*/measured-*.json"))
    results = [_read(path) for path in paths]
    if results:
        print(f"\n{format_tables(results)}\n\n{format_filters(results)}")
        draw(results, arguments.out / "index.png")
        print(f"\ndrawn: {arguments.out / 'index.png'}")
    for failure in failed:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failed else 0


def _read(path: Path) -> Measured:
    try:
        return Measured.model_validate_json(path.read_text())
    except ValidationError as error:
        raise SetupError(f"{path} was kept by another version of this benchmark", allowed="--again") from error


def _done_apart(name: str, distribution: str, count: int, dim: int, folder: Path, result: Path | None) -> bool:
    # A process of its own: memory is then the engine's, and an engine that dies takes nothing along.
    process = multiprocessing.get_context("spawn").Process(
        target=_in_own_process, args=(name, distribution, count, dim, folder, result)
    )
    process.start()
    process.join()
    return process.exitcode == 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=positive_count, default=[100_000, 1_000_000])
    parser.add_argument("--dim", type=positive_count, default=512)
    parser.add_argument("--distributions", nargs="+", choices=DISTRIBUTIONS, default=["real"])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--out", type=Path, default=Path("var/bench/index"))
    parser.add_argument("--build-only", action="store_true", help="build now, while the machine is busy; measure later")
    parser.add_argument("--again", action="store_true", help="measure anew; indexes that are built are kept")
    parser.add_argument("--report", action="store_true", help="only report what was measured before")
    return exit_status(lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
