"""Times the exact job of a whole evaluation: every query against every item, as a share of the machine's sgemm peak.

Run:
    python -m benchmarks.exact_job                     # 60,502 queries in 60,501 x 1024, k = 10 and 1000
    python -m benchmarks.exact_job --queries 4000      # a part of the queries, for a quick look

The peak is that of one large float32 matrix product by NumPy's BLAS with as many threads. Both are measured in turns:
a machine that slows down for a while does so for both.
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
_QUERIES_A_TURN = 2048


def sgemm_gflops(products: int = 2) -> float:
    """Return the better rate of so many `(4096, 4096)` float32 products."""
    left, right = (np.random.default_rng(i).standard_normal((_EDGE, _EDGE), dtype=np.float32) for i in (0, 1))
    out = np.empty((_EDGE, _EDGE), dtype=np.float32)
    return 2 * _EDGE**3 / min(timed_s(lambda: np.matmul(left, right, out=out)) for _ in range(products)) / 1e9


def timed_s(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def search_s(items: NDArray[np.float32], queries: NDArray[np.float32], k: int) -> float:
    """Return the seconds that the index's own exact search takes with all cores."""
    with omp_threads(os.cpu_count() or 1):
        return timed_s(lambda: exact_search(items, queries, k, None))


def run(arguments: argparse.Namespace) -> int:
    """Measure and print a line for each k."""
    print(f"{this_hardware()}; {load_average()}", flush=True)
    items = embeddings_of(arguments.items, arguments.dim, seed=2)
    queries = embeddings_of(arguments.queries, arguments.dim, seed=3)
    work = 2 * len(items) * arguments.dim / 1e9
    sgemm_gflops()
    for k in arguments.k:
        seconds, peaks, shares = 0.0, [], []
        for start in range(0, len(queries), _QUERIES_A_TURN):
            some = queries[start : start + _QUERIES_A_TURN]
            peaks.append(sgemm_gflops())
            seconds += (turn_s := search_s(items, some, k))
            shares.append(work * len(some) / turn_s / peaks[-1])
        print(
            f"{len(queries):,} queries in {len(items):,} x {arguments.dim}, k = {k}: {seconds:.1f} s, "
            f"{work * len(queries) / seconds:.0f} GFLOP/s; sgemm {np.median(peaks):.0f} GFLOP/s in turns with it: "
            f"{np.median(shares):.0%} of it (median of {len(shares)}; {min(shares):.0%} to {max(shares):.0%})",
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
