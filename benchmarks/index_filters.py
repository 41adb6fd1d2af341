"""How a filtered search behaves: what it finds and how long it takes, by the share of the items that qualify."""

import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from lookalike.evaluation import ann_recall_at_k
from lookalike.index.exact import exact_search

SHARES = (0.5, 0.05, 0.005)
_QUERIES = 30
Filtered = Callable[[NDArray[np.float32], int, NDArray[np.bool_]], NDArray[np.int64]]  # queries, k, mask


class FilterPoint(BaseModel, frozen=True):
    """One filter: whether it is at random or goes with the embedding, as a colour or a category does."""

    filter: str
    share: float
    ann_recall_at_10: float
    p50_ms: float


def filter_points(search: Filtered, vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> list[FilterPoint]:
    """Search under each filter, one query at a time and with one thread, and compare with exact search."""
    return [_point(search, name, share, mask, vectors, queries[:_QUERIES]) for name, share, mask in _masks(vectors)]


def _masks(vectors: NDArray[np.float32]) -> Iterator[tuple[str, float, NDArray[np.bool_]]]:
    random = np.random.default_rng(7)
    direction = random.standard_normal(vectors.shape[1], dtype=np.float32)
    along, chance = vectors @ direction, random.random(len(vectors))
    for share in SHARES:
        yield "at random", share, chance < share
        yield "with the embedding", share, along >= np.quantile(along, 1 - share)


def _point(
    search: Filtered,
    name: str,
    share: float,
    mask: NDArray[np.bool_],
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
) -> FilterPoint:
    times_ms, found, exact = [], [], []
    for query in queries:
        start_s = time.perf_counter()
        found.append(search(query[None], 10, mask)[0])
        times_ms.append((time.perf_counter() - start_s) * 1000)
        exact.append(exact_search(vectors, query[None], 10, mask)[1][0])
    recall = ann_recall_at_k(np.array(found), np.array(exact), 10)
    return FilterPoint(filter=name, share=share, ann_recall_at_10=recall, p50_ms=float(np.median(times_ms)))
