"""Approximate search by an HNSW graph (Malkov and Yashunin, 2016): built, extended, mapped, searched."""

import math
from pathlib import Path
from typing import Any

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

from lookalike.index.exact import Found, RowSelector
from lookalike.index.manifest import BuildSettings
from lookalike.index.structures import Before, add_rows, read_structure, write_structure

faiss: Any = typed_faiss  # its stubs leave out half of the classes

# A filtered exact search took about .15 us a qualifying row, a filtered graph search about 8.5 us a unit of
# efSearch (1280 dimensions; docs/adr/0002): exact is the faster while rows^2 <= 57 * ef_search * count.
_EXACT_ROWS2_PER_EF = 57
_FILTERED_EF = 2  # the nearest of few lie farther away and are more alike (docs/adr/0012)


def build_graph(path: Path, vectors: NDArray[np.float32], build: BuildSettings, before: Before | None) -> None:
    """Write the graph over `vectors` `(count, dim)` to `path`; that of the version before grows where its rows stay.

    FAISS maps only files that hold graph and embeddings together, so they lie here a second time (docs/adr/0002).
    """
    if before is not None and before.rows_stay:
        graph = faiss.read_index(str(before.path))
    else:
        graph = _new_graph(vectors.shape[1], build)
    add_rows(graph, vectors)
    write_structure(graph, path)


def _new_graph(dim: int, build: BuildSettings) -> Any:
    graph = faiss.IndexHNSWFlat(dim, build.hnsw_m or 32, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = build.ef_construction or 200
    return graph


class Graph:
    """A mapped HNSW graph (a `Structure`)."""

    def __init__(self, index: Any, ef_search: int) -> None:
        self._index, self._ef_search = index, ef_search

    @classmethod
    def open(cls, path: Path, count: int, dim: int, ef_search: int) -> "Graph":
        """Map the graph file.

        Raises:
            IndexDamaged: it is no graph of `count` embeddings of `dim` dimensions by inner product.
        """
        return cls(read_structure(path, faiss.IndexHNSWFlat, count, dim, faiss.IO_FLAG_MMAP_IFC), ef_search)

    def search(self, queries: NDArray[np.float32], k: int, qualifying: NDArray[np.bool_] | None) -> Found:
        """Walk the graph, as `Structure.search`."""
        parameters = faiss.SearchParametersHNSW(efSearch=self._ef(k))
        if qualifying is not None:
            chosen = RowSelector(qualifying)
            # Of the ef nodes that are kept only the qualifying ones count: more are kept, the fewer qualify.
            wanted = _FILTERED_EF * self._ef(k) * len(qualifying) / max(1, int(qualifying.sum()))
            parameters = faiss.SearchParametersHNSW(sel=chosen.selector, efSearch=math.ceil(wanted))
        similarities, rows = self._index.search(queries, k, params=parameters)
        return similarities, rows

    def exact_is_faster(self, qualifying: NDArray[np.bool_], k: int) -> bool:
        """Compare the two costs, as `Structure.exact_is_faster`."""
        return int(qualifying.sum()) ** 2 <= _EXACT_ROWS2_PER_EF * _FILTERED_EF * self._ef(k) * len(qualifying)

    def _ef(self, k: int) -> int:
        # A walk that keeps only k candidates finds the last of the k badly.
        return max(self._ef_search, 2 * k)
