"""Exact search: every qualifying embedding is compared, straight from the memory map."""

from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
from numpy.typing import NDArray

from lookalike.index.bulk import bulk_search

# So many queries at once are a matrix product, which NumPy's BLAS does four times as fast as that of FAISS's package
# (docs/benchmarks.md); fewer are bound by reading the embeddings once.
_BULK_QUERIES = 64

# similarities (n, k) float32 and rows (n, k) int64; a row of -1 is padding
Found = tuple[NDArray[np.float32], NDArray[np.int64]]


@contextmanager
def omp_threads(threads: int) -> Iterator[None]:
    """Let FAISS use so many threads for calls from this thread; other threads keep their own number."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class RowSelector:
    """FAISS's selector over the rows of a mask `(count,)`; it keeps the bits alive that FAISS only points to."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self._bits = np.packbits(mask, bitorder="little")
        self.selector = faiss.IDSelectorBitmap(len(mask), faiss.swig_ptr(self._bits))


def exact_search(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, qualifying: NDArray[np.bool_] | None
) -> Found:
    """Return the `k` rows of `vectors` `(count, dim)` with the biggest inner product for each of `queries` `(n, dim)`.

    Rows that do not qualify are skipped before their embedding is read, so a narrow filter costs little.
    """
    if qualifying is None and len(queries) >= _BULK_QUERIES:
        return bulk_search(vectors, queries, k, faiss.omp_get_max_threads())
    similarities = np.empty((len(queries), k), dtype=np.float32)
    rows = np.empty((len(queries), k), dtype=np.int64)
    chosen = None if qualifying is None else RowSelector(qualifying)
    faiss.knn_inner_product(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(vectors),
        vectors.shape[1],
        len(queries),
        len(vectors),
        k,
        faiss.swig_ptr(similarities),
        faiss.swig_ptr(rows),
        None if chosen is None else chosen.selector,
    )
    return similarities, rows
