"""The index in this process: a version's exact or approximate search, with filters, as the pipeline sees it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.config import IndexSettings
from lookalike.errors import InvalidOption
from lookalike.index.exact import Found, exact_search, omp_threads
from lookalike.index.hnsw import Graph
from lookalike.index.items import Items
from lookalike.index.ivf import InvertedLists
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import STRUCTURE_FILES, Manifest
from lookalike.index.queries import check_items, checked_embeddings
from lookalike.index.snapshot import Snapshot, check_content, open_snapshot
from lookalike.index.structures import Structure, nearest
from lookalike.schemas import Filters, Hit, IndexInfo


class FaissIndex:
    """A searchable version (a `VectorIndex`); safe to search from several threads at once."""

    def __init__(self, snapshot: Snapshot, settings: IndexSettings) -> None:
        self._snapshot, self._settings = snapshot, settings
        manifest = snapshot.manifest
        self._structure = _open_structure(snapshot, settings)
        self._info = IndexInfo(version=manifest.version, count=manifest.count, kind=manifest.kind)

    @property
    def manifest(self) -> Manifest:
        """What the index was built from: embedder fingerprint, dim, metric, count, files with their sha256."""
        return self._snapshot.manifest

    @property
    def info(self) -> IndexInfo:
        """Version, count and kind, as a response reports them."""
        return self._info

    @property
    def items(self) -> Items:
        """The items of this version."""
        return self._snapshot.items

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The embeddings `(count, dim)` float32, L2-normalised, mapped from disk."""
        return self._snapshot.vectors

    def search(
        self,
        embeddings: NDArray[np.float32],
        top_k: int,
        filters: Filters | None = None,
        min_similarity: float | None = None,
    ) -> list[list[Hit]]:
        """Return for each row of `embeddings` `(n, dim)` at most `top_k` hits, the most similar first.

        An item qualifies when for every attribute in `filters` its value is one of those listed; `top_k` hits come
        back whenever that many items qualify.

        Raises:
            InvalidOption: for an attribute that the catalogue does not have, or `top_k` below 1.
            IndexMismatch: for embeddings of another dimension.
        """
        queries = checked_embeddings(embeddings, self.manifest)
        if top_k < 1:
            raise InvalidOption(f"top_k is {top_k}", allowed="1 or more")
        qualifying = self.items.qualifying(filters)
        available = self.manifest.count if qualifying is None else int(qualifying.sum())
        k = min(top_k, available)
        if k == 0 or not len(queries):
            return [[] for _ in queries]
        with omp_threads(self._settings.search_threads):
            similarities, rows = self._nearest(queries, k, qualifying)
        floor = -1.0 if min_similarity is None else min_similarity
        return [self._hits(*found, floor) for found in zip(np.clip(similarities, -1, 1), rows, strict=True)]

    def embeddings_of(self, item_ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings `(len(item_ids), dim)` float32, L2-normalised, of these items, in this order.

        Raises:
            InvalidOption: naming the items that the catalogue does not have.
        """
        rows = self.items.rows_of(item_ids)
        check_items([item_id for item_id, row in zip(item_ids, rows, strict=True) if row < 0])
        return np.asarray(self.vectors[rows])

    def nearest_rows(self, embeddings: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Return the rows `(n, min(k, count))` that this index finds nearest, by its structure where it has one."""
        queries = checked_embeddings(embeddings, self.manifest)
        with omp_threads(self._settings.search_threads):
            return self._nearest(queries, min(k, self.manifest.count), None)[1]

    def exact_rows(self, embeddings: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Return the rows `(n, min(k, count))` that are nearest in truth, against which the others are measured."""
        with omp_threads(self._settings.search_threads):
            return exact_search(
                self.vectors, checked_embeddings(embeddings, self.manifest), min(k, self.manifest.count), None
            )[1]

    def _nearest(self, queries: NDArray[np.float32], k: int, qualifying: NDArray[np.bool_] | None) -> Found:
        return nearest(self._structure, self.vectors, queries, k, qualifying)

    def _hits(self, similarities: NDArray[np.float32], rows: NDArray[np.int64], floor: float) -> list[Hit]:
        # FAISS pads short result lists with -1; a padded slot is not a hit.
        keep = (rows >= 0) & (similarities >= floor)
        return self.items.hits(rows[keep], similarities[keep])


def _open_structure(snapshot: Snapshot, settings: IndexSettings) -> Structure | None:
    manifest = snapshot.manifest
    if manifest.kind == "flat":
        return None
    path = snapshot.version_dir / STRUCTURE_FILES[manifest.kind]
    check_content(snapshot.version_dir, manifest, path.name)  # a damaged link leads FAISS out of its memory
    if manifest.kind == "hnsw":
        return Graph.open(path, manifest.count, manifest.dim, settings.ef_search)
    return InvertedLists.open(path, snapshot.vectors, settings.ivf_probes)


def open_index(
    index_dir: Path,
    settings: IndexSettings | None = None,
    version: str | None = None,
    expect_fingerprint: str | None = None,
) -> FaissIndex:
    """Open the published version of the index in `index_dir`, or `version`.

    Raises:
        IndexUnavailable: nothing was published.
        IndexDamaged: a file is missing, cut or of a wrong shape, or the format is newer than this program.
        IndexMismatch: the index was built by another embedder than `expect_fingerprint`, or for another metric.
    """
    layout = IndexLayout(index_dir)
    version_dir = layout.published_dir() if version is None else layout.version_dir(version)
    return FaissIndex(open_snapshot(version_dir, expect_fingerprint), settings or IndexSettings.load())
