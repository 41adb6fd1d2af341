"""Approximate search by an HNSW graph (Malkov and Yashunin, 2016): built, extended, mapped, searched."""

import math
from pathlib import Path
from typing import Any

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

from lookalike.errors import IndexDamaged
from lookalike.index.exact import Found, RowSelector
from lookalike.index.manifest import BuildSettings

faiss: Any = typed_faiss  # its stubs leave out half of the classes

# A filtered exact search took about .15 us a qualifying row, a filtered graph search about 8.5 us a unit of
# efSearch (1280 dimensions; docs/adr/0002): exact is the faster while rows^2 <= 57 * ef_search * count.
_EXACT_ROWS2_PER_EF = 57
_ADD_ROWS = 4096


def exact_is_faster(qualifying: NDArray[np.bool_], ef_search: int) -> bool:
    """Tell whether the rows that qualify (a mask) are sooner compared one by one than found through the graph."""
    return int(qualifying.sum()) ** 2 <= _EXACT_ROWS2_PER_EF * ef_search * len(qualifying)


def build_graph(path: Path, vectors: NDArray[np.float32], build: BuildSettings, extend: Path | None) -> None:
    """Write the graph over `vectors` `(count, dim)` to `path`; `extend` is the graph of their first rows, if any.

    FAISS maps only files that hold graph and embeddings together, so they lie here a second time (docs/adr/0002).
    """
    graph = _new_graph(vectors.shape[1], build) if extend is None else faiss.read_index(str(extend))
    for start in range(graph.ntotal, len(vectors), _ADD_ROWS):
        graph.add(np.ascontiguousarray(vectors[start : start + _ADD_ROWS]))
    with path.open("wb") as file:
        # Through Python's file, a full disk is an OSError with its errno, not FAISS's text.
        faiss.write_index(graph, faiss.PyCallbackIOWriter(file.write))


def _new_graph(dim: int, build: BuildSettings) -> Any:
    graph = faiss.IndexHNSWFlat(dim, build.hnsw_m or 32, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = build.ef_construction or 200
    return graph


class Graph:
    """A mapped HNSW graph."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def open(cls, path: Path, count: int, dim: int) -> "Graph":
        """Map the graph file.

        Raises:
            IndexDamaged: it is no graph of `count` embeddings of `dim` dimensions by inner product.
        """
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise IndexDamaged(f"index version {path.parent.name}: {path.name} cannot be read: {error}") from error
        wanted = (faiss.IndexHNSWFlat, count, dim, faiss.METRIC_INNER_PRODUCT)
        if (type(index), index.ntotal, index.d, index.metric_type) != wanted:
            raise IndexDamaged(
                f"index version {path.parent.name}: {path.name} holds {type(index).__name__} of {index.ntotal} x "
                f"{index.d}; the manifest says {count} x {dim}"
            )
        return cls(index)

    def search(
        self, queries: NDArray[np.float32], k: int, qualifying: NDArray[np.bool_] | None, ef_search: int
    ) -> Found:
        """Return about the `k` nearest qualifying rows for each of `queries` `(n, dim)`; short lists end in rows -1."""
        parameters = faiss.SearchParametersHNSW(efSearch=ef_search)
        if qualifying is not None:
            chosen = RowSelector(qualifying)
            # Of the ef nodes that are kept only the qualifying ones count: more are kept, the fewer qualify.
            share = max(1, int(qualifying.sum())) / len(qualifying)
            parameters = faiss.SearchParametersHNSW(sel=chosen.selector, efSearch=math.ceil(ef_search / share))
        similarities, rows = self._index.search(queries, k, params=parameters)
        return similarities, rows
