"""Measures how soon an index is ready after a restart, and how long its searches take: filtered, and side by side.

Run:
    python benchmarks/bench_index_load.py --items 100000
    python benchmarks/bench_index_load.py --items 100000 --kinds flat hnsw --index-dir /tmp/bench-index
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.config import IndexSettings
from lookalike.index.draft import Draft
from lookalike.index.faiss_index import FaissIndex, open_index
from lookalike.index.items import ItemRecord
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import BuildSettings, Kind
from lookalike.index.store import KnownEmbeddings
from lookalike.index.verify import measure_recall
from lookalike.index.writer import IndexWriter
from lookalike.schemas import Filters

LATENT = 48  # real embeddings fill few of their dimensions; HNSW is slow and poor on noise that fills all
FILTERS: dict[str, Filters | None] = {
    "none": None,
    "1 %": {"hundredth": ["7"]},
    "10 %": {"tenth": ["7"]},
    "50 %": {"half": ["1"]},
    "100 %": {"all": ["yes"]},
}
# What a restarted router does: import, open, answer. The interpreter's own start is in `process_s`.
RESTART = """
import json, sys, time
start_s = time.perf_counter()
from pathlib import Path
import numpy as np
from lookalike.index.live import LiveIndex
imported_s = time.perf_counter()
live = LiveIndex(Path(sys.argv[1]))
opened_s = time.perf_counter()
index = live.current()
query = np.ones((1, index.manifest.dim), np.float32) / np.sqrt(index.manifest.dim)
index.search(query.astype(np.float32), 10)
first_s = time.perf_counter()
index.search(query.astype(np.float32), 10)
second_s = time.perf_counter()
print(json.dumps({"import_s": imported_s - start_s, "open_s": opened_s - imported_s,
                  "first_search_s": first_s - opened_s, "second_search_s": second_s - first_s}))
live.close()
"""


def embeddings_of(count: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Return `(count, dim)` float32 L2-normalised: clusters on a plane of `LATENT` dimensions, and noise."""
    plane = np.random.default_rng(0).standard_normal((LATENT, dim), dtype=np.float32)
    centres = np.random.default_rng(1).standard_normal((2000, LATENT), dtype=np.float32)
    random = np.random.default_rng(seed)
    embeddings = np.empty((count, dim), dtype=np.float32)
    for start in range(0, count, 10_000):
        rows = min(10_000, count - start)
        latent = centres[random.integers(0, 2000, rows)] + 0.5 * random.standard_normal((rows, LATENT), np.float32)
        block = latent @ plane + random.standard_normal((rows, dim), np.float32)
        embeddings[start : start + rows] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return embeddings


def build(index_dir: Path, kind: Kind, count: int, dim: int, fingerprint: str = "f" * 16) -> float:
    """Publish an index of made-up items; return the seconds that it took, the structure's construction included."""
    embeddings = embeddings_of(count, dim, seed=2)
    keys = [hashlib.sha256(str(number).encode()).digest() for number in range(count)]
    known = KnownEmbeddings(dim)
    known.include(keys, embeddings)
    records = [
        ItemRecord(
            item_id=f"folder-{number % 97}/item-{number:07d}.jpg",
            content_sha256=key,
            path=f"/catalogue/folder-{number % 97}/item-{number:07d}.jpg",
            title=f"Made-up item number {number}",
            url=f"https://example.org/items/{number}",
            attributes={
                "half": str(number % 2),
                "tenth": str(number % 10),
                "hundredth": str(number * 7919 % 100),
                "all": "yes",
            },
        )
        for number, key in enumerate(keys)
    ]
    settings = IndexSettings()
    how = BuildSettings(hnsw_m=settings.hnsw_m, ef_construction=settings.ef_construction)
    draft = Draft("made up", fingerprint, dim, kind, how if kind == "hnsw" else BuildSettings(), records)
    start_s = time.perf_counter()
    with IndexWriter(index_dir) as writer:
        writer.publish(draft, known, base=None)
    return time.perf_counter() - start_s


def forget_cached(index_dir: Path) -> None:
    """Ask the kernel to drop the version's pages, as after a restart of the machine."""
    for path in IndexLayout(index_dir).published_dir().iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def restarted(index_dir: Path) -> str:
    """Return the times of a new process that opens the index and searches twice."""
    start_s = time.perf_counter()
    finished = subprocess.run(
        [sys.executable, "-c", RESTART, str(index_dir)], check=True, capture_output=True, text=True
    )
    seconds = {**json.loads(finished.stdout), "process_s": time.perf_counter() - start_s}
    return ", ".join(f"{name} {value:.3f}" for name, value in seconds.items())


def p50_p95_ms(search: Callable[[NDArray[np.float32]], object], queries: NDArray[np.float32]) -> str:
    times_ms = []
    for query in queries:
        start_s = time.perf_counter()
        search(query[None])
        times_ms.append((time.perf_counter() - start_s) * 1000)
    return f"{np.median(times_ms):.2f} | {np.percentile(times_ms, 95):.2f}"


def searches_per_s(index: FaissIndex, queries: NDArray[np.float32], clients: int) -> float:
    """Let so many threads search at the same time, as the router's do."""
    start_s = time.perf_counter()
    with ThreadPoolExecutor(clients) as executor:
        list(executor.map(lambda query: index.search(query[None], 10), queries))
    return len(queries) / (time.perf_counter() - start_s)


def report(index_dir: Path, dim: int) -> None:
    queries = embeddings_of(100, dim, seed=3)
    for state in ("cold", "warm"):
        if state == "cold":
            forget_cached(index_dir)
        print(f"restart, {state} page cache: {restarted(index_dir)}")
    index = open_index(index_dir, IndexSettings())
    index.search(queries, 10)
    print("\n| filter | p50 ms | p95 ms |\n|---|---:|---:|")
    for name, filters in FILTERS.items():
        print(f"| {name} | {p50_p95_ms(partial(index.search, top_k=10, filters=filters), queries)} |")
    print("\n| clients | search_threads | searches/s |\n|---:|---:|---:|")
    for clients in (1, 2, 4):
        for threads in (1, 2):
            several = open_index(index_dir, IndexSettings(search_threads=threads))
            print(f"| {clients} | {threads} | {searches_per_s(several, queries, clients):.0f} |")
    if index.info.kind != "flat":
        print(f"\n{measure_recall(index, queries=200, k=10)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--kinds", nargs="+", choices=["flat", "hnsw", "ivf"], default=["flat"])
    parser.add_argument("--index-dir", type=Path, help="where to build; a temporary folder when left out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for kind in arguments.kinds:
            index_dir = (arguments.index_dir or Path(temporary)) / kind
            print(f"\n## {kind}, {arguments.items} x {arguments.dim}")
            print(f"written in {build(index_dir, kind, arguments.items, arguments.dim):.1f} s")
            report(index_dir, arguments.dim)


if __name__ == "__main__":
    main()
