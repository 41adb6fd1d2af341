"""Exact search for many queries at once: products of blocks by NumPy's BLAS, of which the best columns are kept."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

# similarities (n, k) float32 and rows (n, k) int64
Best = tuple[NDArray[np.float32], NDArray[np.int64]]

_QUERIES_AT_ONCE, _ROWS_AT_ONCE = 1024, 65_536  # of the similarities that lie in memory: 268 MB at most
_LONGEST_GROUP = 64
_GROUPS_PER_K = 4
_ROWS_SORTED = 16  # at once, so that their values stay in the cache between two passes


def bulk_search(vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, threads: int) -> Best:
    """Return the `k` rows of `vectors` `(count, dim)` with the biggest inner product for each of `queries` `(n, dim)`.

    `threads` choose the best rows; the products take as many as NumPy's BLAS is given.
    """
    buffer = np.empty(min(_QUERIES_AT_ONCE, len(queries)) * min(_ROWS_AT_ONCE, len(vectors)), dtype=np.float32)
    with ThreadPoolExecutor(threads) as executor:
        parts = [
            _search_some(vectors, queries[start : start + _QUERIES_AT_ONCE], k, buffer, executor, threads)
            for start in range(0, len(queries), _QUERIES_AT_ONCE)
        ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _search_some(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    buffer: NDArray[np.float32],
    executor: ThreadPoolExecutor,
    threads: int,
) -> Best:
    similarities, rows = [], []
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        block = vectors[start : start + _ROWS_AT_ONCE]
        product = buffer[: len(queries) * len(block)].reshape(len(queries), len(block))
        np.matmul(queries, block.T, out=product)
        shares = np.array_split(product, min(threads, len(product)))
        found = list(executor.map(partial(best_columns, k=min(k, len(block))), shares))
        similarities.append(np.concatenate([values for values, _ in found]))
        rows.append(np.concatenate([columns for _, columns in found]) + start)
    of_all = np.concatenate(similarities, axis=1)
    order = np.argsort(-of_all, axis=1)[:, :k] if len(rows) > 1 else np.arange(k)[None]
    return np.take_along_axis(of_all, order, 1), np.take_along_axis(np.concatenate(rows, axis=1), order, 1)


def best_columns(values: NDArray[np.float32], k: int) -> Best:
    """Return the `k` biggest of each row of `values` `(n, columns)`, the biggest first, and their columns."""
    parts = [_best_of_some(values[start : start + _ROWS_SORTED], k) for start in range(0, len(values), _ROWS_SORTED)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _best_of_some(values: NDArray[np.float32], k: int) -> Best:
    """Sort what is above a floor: two quick passes over all values, neither of which holds Python's lock.

    The columns are laid into groups. The `k`-th biggest of the groups' maxima is a floor that `k` values reach.
    """
    count, columns = values.shape
    size = max(1, min(_LONGEST_GROUP, columns // (_GROUPS_PER_K * k)))
    groups = columns // size  # a group is every `groups`-th column
    maxima = values[:, : size * groups].reshape(count, size, groups).max(axis=1)
    floors = np.partition(maxima, groups - k, axis=1)[:, groups - k]
    above = np.flatnonzero(values >= floors[:, None])
    ends = np.searchsorted(above, np.arange(count + 1) * columns)
    widths = np.diff(ends)
    is_candidate = np.arange(widths.max()) < widths[:, None]
    candidates = np.full(is_candidate.shape, np.inf, dtype=np.float32)
    candidates[is_candidate] = -values.ravel()[above]
    order = np.argsort(candidates, axis=1)[:, :k]
    found = above[ends[:-1, None] + order] - np.arange(count)[:, None] * columns
    return -np.take_along_axis(candidates, order, 1), found
