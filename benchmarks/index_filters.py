"""How a filtered search behaves: what it finds and how long it takes, by the share of the items that qualify."""

import os
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from benchmarks.index_engines import FilteredSearch
from lookalike.evaluation import ann_recall_at_k
from lookalike.index.exact import exact_search

SHARES = (0.5, 0.1, 0.01, 0.001)
K = 10
_QUERIES = 60  # exact search of a million needs no more


class FilterPoint(BaseModel, frozen=True):
    """One filter: whether it is at random or goes with the embedding, as a colour or a category does."""

    filter: str
    share: float
    ann_recall_at_10: float
    p50_ms: float  # one query at a time, one thread
    queries_per_s: float  # all cores, queries at once


def filter_points(
    search: FilteredSearch, vectors: NDArray[np.float32], queries: NDArray[np.float32]
) -> list[FilterPoint]:
    """Search under each filter and compare with exact search."""
    return [_point(search, name, share, mask, vectors, queries[:_QUERIES]) for name, share, mask in _masks(vectors)]


def _masks(vectors: NDArray[np.float32]) -> Iterator[tuple[str, float, NDArray[np.bool_]]]:
    random = np.random.default_rng(7)
    direction = random.standard_normal(vectors.shape[1], dtype=np.float32)
    along, chance = vectors @ direction, random.random(len(vectors))
    for share in SHARES:
        yield "at random", share, chance < share
        yield "with the embedding", share, along >= np.quantile(along, 1 - share)


def _point(
    search: FilteredSearch,
    name: str,
    share: float,
    mask: NDArray[np.bool_],
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
) -> FilterPoint:
    times_ms = []
    for query in queries:
        start_s = time.perf_counter()
        search(query[None], K, mask, 1)
        times_ms.append((time.perf_counter() - start_s) * 1000)
    start_s = time.perf_counter()
    found = search(queries, K, mask, os.cpu_count() or 1)
    elapsed_s = time.perf_counter() - start_s
    return FilterPoint(
        filter=name,
        share=share,
        ann_recall_at_10=ann_recall_at_k(found, exact_search(vectors, queries, K, mask)[1], K),
        p50_ms=float(np.median(times_ms)),
        queries_per_s=len(queries) / elapsed_s,
    )
