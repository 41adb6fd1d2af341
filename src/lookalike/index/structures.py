"""FAISS's search structures as files: grown over the embeddings, written through Python, read and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

from lookalike.errors import IndexDamaged
from lookalike.index.exact import Found, exact_search

faiss: Any = typed_faiss  # its stubs leave out half of the classes

_ADD_ROWS = 16_384


@dataclass(frozen=True)
class Before:
    """The structure of the version before, made by the same embedder in the same way.

    With `rows_stay` its rows are the first of the new version's.
    """

    path: Path
    rows_stay: bool


class Structure(Protocol):
    """What finds near rows without comparing every one."""

    def search(self, queries: NDArray[np.float32], k: int, qualifying: NDArray[np.bool_] | None) -> Found:
        """Return about the `k` nearest qualifying rows for each of `queries` `(n, dim)`; short lists end in rows -1."""

    def exact_is_faster(self, qualifying: NDArray[np.bool_], k: int) -> bool:
        """Tell whether the rows that qualify (a mask) are sooner compared one by one."""


def nearest(
    structure: Structure | None,
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    qualifying: NDArray[np.bool_] | None,
) -> Found:
    """Return the `k` nearest qualifying rows of `vectors` for each query, by `structure` where that is the faster.

    Whenever `k` rows qualify, `k` come back.
    """
    if structure is None or (qualifying is not None and structure.exact_is_faster(qualifying, k)):
        return exact_search(vectors, queries, k, qualifying)
    similarities, rows = structure.search(queries, k, qualifying)
    # It may end before it met k qualifying rows; the client was promised k when there are k.
    short = np.flatnonzero((rows < 0).any(axis=1))
    if len(short):
        similarities[short], rows[short] = exact_search(vectors, queries[short], k, qualifying)
    return similarities, rows


def add_rows(index: Any, vectors: NDArray[np.float32]) -> None:
    """Add those of `vectors` `(count, dim)` that `index` does not hold yet."""
    for start in range(index.ntotal, len(vectors), _ADD_ROWS):
        index.add(np.ascontiguousarray(vectors[start : start + _ADD_ROWS]))


def write_structure(index: Any, path: Path) -> None:
    """Write `index` to `path`; a full disk is an OSError with its errno, not FAISS's text."""
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))


def read_structure(path: Path, kind: Any, count: int, dim: int, flags: int = 0) -> Any:
    """Return the FAISS index in `path`.

    Raises:
        IndexDamaged: it is no `kind` of `count` embeddings of `dim` dimensions by inner product.
    """
    try:
        index = faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise IndexDamaged(f"index version {path.parent.name}: {path.name} cannot be read: {error}") from error
    if (type(index), index.ntotal, index.d, index.metric_type) != (kind, count, dim, faiss.METRIC_INNER_PRODUCT):
        raise IndexDamaged(
            f"index version {path.parent.name}: {path.name} holds {type(index).__name__} of {index.ntotal} x "
            f"{index.d}; the manifest says {count} x {dim}"
        )
    return index
