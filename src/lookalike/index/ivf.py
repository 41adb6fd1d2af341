"""Approximate search by inverted lists of short codes, whose best candidates are compared again by their embeddings.

The lists are FAISS's IVF. The codes are those of a product quantizer, four bits for two dimensions: FAISS compares 32
of them at a time ("Quicker ADC", Andre et al., 2019, https://arxiv.org/abs/1812.09162).
"""

import math
from pathlib import Path
from typing import Any

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

from lookalike.index.exact import Found, RowSelector, omp_threads
from lookalike.index.manifest import BuildSettings
from lookalike.index.structures import Before, add_rows, read_structure, write_structure

faiss: Any = typed_faiss  # its stubs leave out half of the classes

_TRAIN_ROWS_PER_LIST, _TRAIN_ROUNDS = 64, 10
_TRAIN_ROWS = 16  # a quantizer of four bits needs as many
_MOST_LISTS = 1 << 16
_CANDIDATES, _CANDIDATES_PER_K = 50, 5
# The fewer rows qualify, the farther away and the more alike are the nearest of them (docs/adr/0012).
_FILTERED_CANDIDATES = 2
FILTERED_PROBES_EXPONENT = 0.65
_ROWS_PER_K = 50  # rows that are looked through for each hit that is wanted, at least
_EXACT_ROWS_PER_SCANNED = 0.045  # what looking through a row takes, in exact comparisons of one (docs/adr/0012)


def lists_for(count: int) -> int:
    """Return how many lists `count` embeddings are laid into: the power of two next to twice their root.

    It changes only where a catalogue has grown fourfold; in between, `add` extends the lists that are there.
    """
    some = max(1, count)
    return min(_MOST_LISTS, some, 1 << round(math.log2(2 * math.sqrt(some))))


def build_lists(path: Path, vectors: NDArray[np.float32], build: BuildSettings, before: Before | None) -> None:
    """Write the lists of `vectors` `(count, dim)` to `path`.

    The centres and codes of the version before serve again while as many lists are wanted; its lists, where their rows
    stay.
    """
    index: Any = None if before is None else faiss.read_index(str(before.path))
    if before is None or index.nlist != lists_for(len(vectors)):
        index = _trained(vectors)
    elif not before.rows_stay:
        index.reset()
    add_rows(index, vectors)
    write_structure(index, path)


def _trained(vectors: NDArray[np.float32]) -> Any:
    """Return empty lists whose centres and codes were learned from a sample of `vectors`."""
    count, dim = vectors.shape
    lists = lists_for(count)
    sample = _sample(vectors, _TRAIN_ROWS_PER_LIST * lists)
    kmeans = faiss.Kmeans(dim, lists, niter=_TRAIN_ROUNDS, spherical=True, min_points_per_centroid=1)
    kmeans.train(sample)
    parts = dim // 2 if dim % 2 == 0 else dim
    index = faiss.index_factory(dim, f"IVF{lists},PQ{parts}x4fs", faiss.METRIC_INNER_PRODUCT)
    index.quantizer.add(kmeans.centroids)
    index.pq.cp.min_points_per_centroid = 1
    with omp_threads(1):  # hundreds of tiny problems: on busy cores threads spend their time waiting for each other
        index.train(sample)
    return index


def _sample(vectors: NDArray[np.float32], rows: int) -> NDArray[np.float32]:
    """Return at most `rows` of `vectors`, and at least as many as training needs, if need be some of them again."""
    count, dim = vectors.shape
    if not count:
        return np.zeros((_TRAIN_ROWS, dim), dtype=np.float32)
    chosen = np.sort(np.random.default_rng(0).choice(count, min(rows, count), replace=False))
    return np.ascontiguousarray(vectors[np.resize(chosen, max(_TRAIN_ROWS, len(chosen)))])


class InvertedLists:
    """Opened lists (a `Structure`); the codes lie in this process's memory, the embeddings stay mapped."""

    def __init__(self, index: Any, vectors: NDArray[np.float32], probes: int) -> None:
        self._index, self._vectors, self._probes = index, vectors, probes

    @classmethod
    def open(cls, path: Path, vectors: NDArray[np.float32], probes: int) -> "InvertedLists":
        """Read the lists over `vectors` `(count, dim)`; of each search `probes` lists are looked through.

        Raises:
            IndexDamaged: they are no lists of so many embeddings by inner product.
        """
        return cls(read_structure(path, faiss.IndexIVFPQFastScan, *vectors.shape), vectors, probes)

    def search(self, queries: NDArray[np.float32], k: int, qualifying: NDArray[np.bool_] | None) -> Found:
        """Look through the nearest lists and compare the best candidates exactly, as `Structure.search`."""
        candidates = min(_CANDIDATES + _CANDIDATES_PER_K * k, len(self._vectors))
        parameters = faiss.SearchParametersIVF(nprobe=self._lists(k, 1.0))
        if qualifying is not None:
            chosen = RowSelector(qualifying)
            candidates = min(_FILTERED_CANDIDATES * candidates, len(self._vectors))
            share = max(1, int(qualifying.sum())) / len(qualifying)
            parameters = faiss.SearchParametersIVF(sel=chosen.selector, nprobe=self._lists(k, share))
        rows = self._index.search(queries, candidates, params=parameters)[1]
        return best_of(self._vectors, queries, rows, k)

    def exact_is_faster(self, qualifying: NDArray[np.bool_], k: int) -> bool:
        """Compare the two costs, as `Structure.exact_is_faster`."""
        rows = int(qualifying.sum())
        scanned = self._lists(k, max(1, rows) / len(qualifying)) * len(qualifying) / self._index.nlist
        return bool(rows <= _EXACT_ROWS_PER_SCANNED * scanned)

    def _lists(self, k: int, share: float) -> int:
        """Return how many lists to look through when only a `share` of the rows qualifies."""
        lists: int = self._index.nlist
        enough = _ROWS_PER_K * k * lists / max(1, len(self._vectors))
        return min(lists, math.ceil(max(self._probes, enough) / math.pow(share, FILTERED_PROBES_EXPONENT)))


def best_of(vectors: NDArray[np.float32], queries: NDArray[np.float32], candidates: NDArray[np.int64], k: int) -> Found:
    """Return the `k` nearest of each query's `candidates` `(n, c)` by their embeddings; short lists end in rows -1."""
    similarities = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    for slot, (query, row) in enumerate(zip(queries, candidates, strict=True)):
        near = np.sort(row[row >= 0])  # in the order on disk
        found = vectors[near] @ query
        order = np.argsort(-found, kind="stable")[:k]
        similarities[slot, : len(order)], rows[slot, : len(order)] = found[order], near[order]
    return similarities, rows
