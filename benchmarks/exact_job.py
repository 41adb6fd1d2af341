"""Times the exact job of a whole evaluation: every query against every item, as a share of the machine's sgemm peak.

Run:
    python -m benchmarks.exact_job                     # 60,502 queries in 60,501 x 1024, k = 10 and 1000
    python -m benchmarks.exact_job --queries 4000      # a part of the queries, for a quick look

The peak is that of one large float32 matrix product by NumPy's BLAS, measured before and after with as many threads.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_index_load import embeddings_of
from benchmarks.command import exit_status, positive_count
from benchmarks.hardware import load_average, this_hardware
from lookalike.index.exact import exact_search, omp_threads

QUERIES, ITEMS, DIM = 60_502, 60_501, 1024  # Stanford Online Products' test split in the source document
_EDGE = 4096


def sgemm_gflops(seconds: float = 5.0) -> float:
    """Return the best rate of a `(4096, 4096)` float32 product within so many seconds."""
    left, right = (np.random.default_rng(i).standard_normal((_EDGE, _EDGE), dtype=np.float32) for i in (0, 1))
    out = np.empty((_EDGE, _EDGE), dtype=np.float32)
    best_s, until = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < until:
        start_s = time.perf_counter()
        np.matmul(left, right, out=out)
        best_s = min(best_s, time.perf_counter() - start_s)
    return 2 * _EDGE**3 / best_s / 1e9


def timed_s(search: Callable[[], object]) -> float:
    """Return the seconds that `search` takes."""
    start_s = time.perf_counter()
    search()
    return time.perf_counter() - start_s


def whole_job(items: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> None:
    """Search all queries with all cores, by the index's own exact search."""
    with omp_threads(os.cpu_count() or 1):
        exact_search(items, queries, k, None)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print a line for each k."""
    print(f"{this_hardware()}; {load_average()}", flush=True)
    items = embeddings_of(arguments.items, arguments.dim, seed=2)
    queries = embeddings_of(arguments.queries, arguments.dim, seed=3)
    work = 2 * len(queries) * len(items) * arguments.dim / 1e9
    for k in arguments.k:
        before = sgemm_gflops()
        seconds = timed_s(lambda k=k: whole_job(items, queries, k))
        peak = max(before, sgemm_gflops())
        print(
            f"{len(queries):,} queries in {len(items):,} x {arguments.dim}, k = {k}: {seconds:.1f} s, "
            f"{work / seconds:.0f} GFLOP/s, {work / seconds / peak:.0%} of the sgemm peak ({peak:.0f} GFLOP/s)",
            flush=True,
        )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=positive_count, default=QUERIES)
    parser.add_argument("--items", type=positive_count, default=ITEMS)
    parser.add_argument("--dim", type=positive_count, default=DIM)
    parser.add_argument("--k", type=positive_count, nargs="+", default=[10, 1000])
    return exit_status(lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
