"""The engines that `bench_index` compares: each is built, saved, opened again, and searched at several settings."""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss as typed_faiss
import numpy as np
from numpy.typing import NDArray

from lookalike.config import IndexSettings
from lookalike.index.exact import omp_threads
from lookalike.index.hnsw import Graph, build_graph
from lookalike.index.ivf import InvertedLists, best_of, build_lists
from lookalike.index.manifest import BuildSettings
from lookalike.index.structures import Structure, nearest

faiss: Any = typed_faiss  # its stubs leave out half of the classes

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]
Search = Callable[[Vectors, int, int, int], Rows]  # queries, k, setting, threads
FilteredSearch = Callable[[Vectors, int, NDArray[np.bool_], int], Rows]  # queries, k, qualifying rows, threads
_TRAIN_ROWS = 100_000
_EFS = [16, 32, 64, 128, 256, 512]
_PROBES = [4, 16, 32, 64, 128, 256]
_ADD_ROWS = 20_000


@dataclass(frozen=True)
class Engine:
    """How one kind of index is built and searched; `setting` is what trades recall for time."""

    name: str
    package: str
    setting: str
    settings: Sequence[int]
    build: Callable[[NDArray[np.float32], Path], None]
    open: Callable[[Path, NDArray[np.float32]], Search]
    open_filtered: Callable[[Path, NDArray[np.float32]], FilteredSearch] | None = None


def usable(engine: Engine) -> bool:
    """Tell whether the engine's package is installed (`pip install lookalike[bench-index]`)."""
    return importlib.util.find_spec(engine.package) is not None


# --- the product's own kinds -----------------------------------------------------------------------------------------


def _product_engine(
    name: str,
    build: Callable[[Vectors, Path], None],
    setting: str,
    settings: Sequence[int],
    open_structure: Callable[[Path, Vectors, int], Structure | None],
) -> Engine:
    """Return a kind of the product; `setting` is the one of `IndexSettings`, whose default serves under filters."""

    def open_(path: Path, vectors: Vectors) -> Search:
        opened: dict[int, Structure | None] = {}

        def search(queries: Vectors, k: int, value: int, threads: int) -> Rows:
            if value not in opened:
                opened.clear()
                opened[value] = open_structure(path, vectors, value)
            with omp_threads(threads):
                return nearest(opened[value], vectors, queries, k, None)[1]

        return search

    def open_filtered(path: Path, vectors: Vectors) -> FilteredSearch:
        structure = open_structure(path, vectors, getattr(IndexSettings(), setting, 0))

        def search(queries: Vectors, k: int, qualifying: NDArray[np.bool_], threads: int) -> Rows:
            with omp_threads(threads):
                return nearest(structure, vectors, queries, k, qualifying)[1]

        return search

    return Engine(name, "faiss", setting, settings, build, open_, open_filtered)


def _exact() -> Engine:
    return _product_engine("exact", lambda vectors, path: path.touch(), "", [0], lambda path, vectors, value: None)


def _hnsw() -> Engine:
    build = BuildSettings(hnsw_m=32, ef_construction=200)
    return _product_engine(
        "hnsw",
        lambda vectors, path: build_graph(path, vectors, build, None),
        "ef_search",
        _EFS,
        lambda path, vectors, ef: Graph.open(path, *vectors.shape, ef),
    )


def _ivf() -> Engine:
    return _product_engine(
        "ivf",
        lambda vectors, path: build_lists(path, vectors, BuildSettings(), None),
        "ivf_probes",
        _PROBES,
        InvertedLists.open,
    )


# --- FAISS's others --------------------------------------------------------------------------------------------------


def _faiss_engine(
    name: str, make: Callable[[int, int], Any], setting: str, settings: Sequence[int], rerank: int = 0
) -> Engine:
    """Return an engine on a FAISS index; with `rerank` the best `rerank * k` are compared again with the embeddings."""

    def build(vectors: NDArray[np.float32], path: Path) -> None:
        index = make(len(vectors), vectors.shape[1])
        if not index.is_trained:
            chosen = np.random.default_rng(0).choice(len(vectors), min(_TRAIN_ROWS, len(vectors)), replace=False)
            index.train(vectors[np.sort(chosen)])
        for start in range(0, len(vectors), _ADD_ROWS):
            index.add(np.ascontiguousarray(vectors[start : start + _ADD_ROWS]))
        faiss.write_index(index, str(path))

    def open_(path: Path, vectors: NDArray[np.float32]) -> Search:
        index = faiss.read_index(str(path))

        def search(queries: NDArray[np.float32], k: int, value: int, threads: int) -> Rows:
            with omp_threads(threads):
                rows = index.search(queries, max(1, rerank) * k, params=_parameters(setting, value))[1]
                return np.asarray(best_of(vectors, queries, rows, k)[1] if rerank else rows)

        return search

    return Engine(name, "faiss", setting, settings, build, open_)


def _parameters(setting: str, value: int) -> Any:
    if setting == "ef":
        return faiss.SearchParametersHNSW(efSearch=value)
    return faiss.SearchParametersIVF(nprobe=value)


def _lists(count: int) -> int:
    """Return about 4 sqrt(count) inverted lists, as FAISS's guidelines advise up to a million rows."""
    return max(16, round(4 * math.sqrt(count)))


def _ivf_of(kind: str) -> Callable[[int, int], Any]:
    def make(count: int, dim: int) -> Any:
        return faiss.index_factory(dim, f"IVF{_lists(count)},{kind.format(half=dim // 2)}", faiss.METRIC_INNER_PRODUCT)

    return make


def _hnsw_sq8(count: int, dim: int) -> Any:
    index = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_8bit, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 200
    return index


# --- others ----------------------------------------------------------------------------------------------------------


def _hnswlib() -> Engine:
    """M and ef as for FAISS's graph (its ALGO_PARAMS.md: M 12-48 for most uses, more for high dimensions)."""

    def build(vectors: NDArray[np.float32], path: Path) -> None:
        index = importlib.import_module("hnswlib").Index(space="ip", dim=vectors.shape[1])
        index.init_index(max_elements=len(vectors), M=32, ef_construction=200, random_seed=1)
        for start in range(0, len(vectors), _ADD_ROWS):
            index.add_items(vectors[start : start + _ADD_ROWS], np.arange(start, min(start + _ADD_ROWS, len(vectors))))
        index.save_index(str(path))

    def open_(path: Path, vectors: NDArray[np.float32]) -> Search:
        index = importlib.import_module("hnswlib").Index(space="ip", dim=vectors.shape[1])
        index.load_index(str(path))

        def search(queries: NDArray[np.float32], k: int, value: int, threads: int) -> Rows:
            index.set_ef(max(value, k))
            return np.asarray(index.knn_query(queries, k=k, num_threads=threads)[0], dtype=np.int64)

        return search

    return Engine("hnswlib", "hnswlib", "ef", _EFS, build, open_)


def _usearch() -> Engine:
    """Half precision, as its README advises for embeddings; connectivity 32, expansion as for the others."""

    def index_of(dim: int) -> Any:
        module = importlib.import_module("usearch.index")
        return module.Index(ndim=dim, metric="ip", dtype="f16", connectivity=32, expansion_add=200)

    def build(vectors: NDArray[np.float32], path: Path) -> None:
        index = index_of(vectors.shape[1])
        for start in range(0, len(vectors), _ADD_ROWS):
            rows = np.arange(start, min(start + _ADD_ROWS, len(vectors)), dtype=np.uint64)
            index.add(rows, vectors[start : start + _ADD_ROWS])
        index.save(str(path))

    def open_(path: Path, vectors: NDArray[np.float32]) -> Search:
        index = index_of(vectors.shape[1])
        index.load(str(path))

        def search(queries: NDArray[np.float32], k: int, value: int, threads: int) -> Rows:
            index.expansion_search = value
            keys = index.search(queries, k, threads=threads).keys
            return np.asarray(keys, dtype=np.int64).reshape(len(queries), k)

        return search

    return Engine("usearch f16", "usearch", "ef", _EFS, build, open_)


def _annoy() -> Engine:
    """100 trees; `search_k` nodes are looked at (its README: more of either is slower and finds more)."""

    def index_of(dim: int) -> Any:
        return importlib.import_module("annoy").AnnoyIndex(dim, "angular")

    def build(vectors: NDArray[np.float32], path: Path) -> None:
        index = index_of(vectors.shape[1])
        index.set_seed(1)
        for row, vector in enumerate(vectors):
            index.add_item(row, vector)
        index.build(100, n_jobs=-1)
        index.save(str(path))

    def open_(path: Path, vectors: NDArray[np.float32]) -> Search:
        index = index_of(vectors.shape[1])
        index.load(str(path))

        def search(queries: NDArray[np.float32], k: int, value: int, threads: int) -> Rows:
            # One thread: its Python interface takes one query at a time.
            found = [index.get_nns_by_vector(query, k, search_k=value) for query in queries]
            return np.array([row + [-1] * (k - len(row)) for row in found], dtype=np.int64)

        return search

    return Engine("annoy", "annoy", "search_k", [1000, 5000, 20_000, 100_000], build, open_)


ENGINES = {
    engine.name: engine
    for engine in (
        _exact(),
        _hnsw(),
        _ivf(),
        _faiss_engine("ivf flat", _ivf_of("Flat"), "nprobe", _PROBES),
        _faiss_engine("ivf sq8, re-ranked", _ivf_of("SQ8"), "nprobe", _PROBES, rerank=4),
        _faiss_engine("ivf rabitq, re-ranked", _ivf_of("RaBitQ"), "nprobe", _PROBES, rerank=20),
        _faiss_engine("ivf pq, re-ranked", _ivf_of("PQ{half}x4fs"), "nprobe", _PROBES, rerank=20),
        _faiss_engine("hnsw sq8, re-ranked", _hnsw_sq8, "ef", _EFS, rerank=4),
        _hnswlib(),
        _usearch(),
        _annoy(),
    )
}
