"""Whether a version is whole, byte by byte, and how close its search comes to exact search."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import IndexDamaged, IndexUnavailable
from lookalike.evaluation import ann_recall_at_k
from lookalike.index.faiss_index import FaissIndex
from lookalike.index.manifest import read_manifest
from lookalike.index.snapshot import Snapshot, check_all_content, check_sizes, open_snapshot

_BLOCK_ROWS = 4096
_NORM_TOLERANCE = 1e-3
# Noise as long as the embedding: queries lie beside the items, at a cosine of about .7, as a new photo of one does.
_QUERY_NOISE = 1.0


def verify_snapshot(version_dir: Path, expect_fingerprint: str | None = None) -> Snapshot:
    """Open a version and read all of it: hashes, every embedding's length, every item.

    Raises:
        IndexDamaged, IndexMismatch: naming the file and what is wrong with it.
    """
    manifest = read_manifest(version_dir)
    check_sizes(version_dir, manifest)
    check_all_content(version_dir, manifest)
    snapshot = open_snapshot(version_dir, expect_fingerprint)
    _check_norms(snapshot)
    snapshot.items.validate()
    return snapshot


def _check_norms(snapshot: Snapshot) -> None:
    for start in range(0, snapshot.manifest.count, _BLOCK_ROWS):
        norms = np.linalg.norm(snapshot.vectors[start : start + _BLOCK_ROWS], axis=1)
        wrong = np.flatnonzero(~(np.abs(norms - 1) < _NORM_TOLERANCE))
        if len(wrong):
            raise IndexDamaged(
                f"index version {snapshot.manifest.version}: the embedding in row {start + wrong[0]} has the length "
                f"{norms[wrong[0]]:.4f} instead of 1"
            )


@dataclass(frozen=True)
class RecallReport:
    """How a search compares with exact search over `queries` queries; latencies are of one query in this process."""

    k: int
    queries: int
    ann_recall_at_k: float
    p50_ms: float
    exact_p50_ms: float


def measure_recall(index: FaissIndex, queries: int, k: int, seed: int = 0) -> RecallReport:
    """Search for items of the index with noise on their embeddings, as the index does it and exactly.

    Raises:
        IndexUnavailable: the index holds no item.
    """
    if not index.manifest.count:
        raise IndexUnavailable(f"index version {index.manifest.version} holds no item to search for")
    near = _noisy_queries(index.vectors, queries, seed)
    found, found_ms = _timed(index.nearest_rows, near, k)
    exact, exact_ms = _timed(index.exact_rows, near, k)
    return RecallReport(k, len(near), ann_recall_at_k(found, exact, k), found_ms, exact_ms)


def _noisy_queries(vectors: NDArray[np.float32], queries: int, seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(len(vectors), size=min(queries, len(vectors)), replace=False))
    noise = random.standard_normal((len(rows), vectors.shape[1]), dtype=np.float32)
    noisy = vectors[rows] + _QUERY_NOISE * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return np.asarray(noisy / np.linalg.norm(noisy, axis=1, keepdims=True), dtype=np.float32)


def _timed(
    search: Callable[[NDArray[np.float32], int], NDArray[np.int64]], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], float]:
    """Return the rows `(n, k)` of one search a query, and the median time of one in ms."""
    rows, times_ms = [], []
    for query in queries:
        start_s = time.perf_counter()
        rows.append(search(query[None], k))
        times_ms.append((time.perf_counter() - start_s) * 1000)
    return np.concatenate(rows), float(np.median(times_ms))
