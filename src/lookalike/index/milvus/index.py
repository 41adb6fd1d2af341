"""A catalogue in a Milvus collection, as the pipeline sees it: searched, and changed item by item."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lookalike.config import IndexSettings
from lookalike.errors import InvalidOption
from lookalike.index.items import ItemRecord
from lookalike.index.manifest import Manifest
from lookalike.index.milvus.catalogue import MilvusCatalogue
from lookalike.index.milvus.rows import (
    CONTENT,
    EMBEDDING,
    ITEM_ID,
    POSITION,
    RECORD,
    SHOWN,
    expression_of,
    hit_of,
    one_of,
    record_of,
    row_of,
)
from lookalike.index.milvus.structures import search_params, thorough_params
from lookalike.index.queries import check_items, checked_embeddings
from lookalike.schemas import Filters, Hit, IndexInfo

T = TypeVar("T")
MAX_TOP_K = 16_384  # Milvus's own limit
_QUERIES_AT_ONCE = 256
_IDS_AT_ONCE = 512


class MilvusIndex:
    """One collection (a `VectorIndex`); safe to use from several threads at once.

    Unlike a version on disk it may change: `upsert` and `delete` are seen by the next search of this process, and by
    those of others as the consistency level says. It is bound to the collection, not to the alias that led there: who
    holds it may go on searching after a switch.
    """

    def __init__(self, catalogue: MilvusCatalogue, name: str, settings: IndexSettings | None = None) -> None:
        """Open the collection `name`.

        Raises:
            IndexUnavailable: the server cannot be reached, or there is no such collection.
            IndexDamaged: it is none of Lookalike's, or of a newer format.
        """
        self._catalogue, self._connection = catalogue, catalogue.connection
        self._settings = settings or IndexSettings.load()
        self._manifest = catalogue.manifest(name)
        self._name = name
        catalogue.load(name)
        self.refresh()

    @property
    def manifest(self) -> Manifest:
        """What the collection was built from: fingerprint, dim, metric; and the count when it was last asked."""
        return self._manifest

    @property
    def info(self) -> IndexInfo:
        """The collection's name, its count when it was last asked, and its kind, as a response reports them."""
        return IndexInfo(version=self._name, count=self._manifest.count, kind=self._manifest.kind)

    def refresh(self) -> None:
        """Ask for the count and for the attributes' names anew.

        Raises:
            IndexUnavailable: the server cannot be reached, or the collection is gone.
        """
        manifest = self._catalogue.manifest(self._name)
        self._manifest = manifest.model_copy(update={"count": self.count()})

    def count(self, filters: Filters | None = None) -> int:
        """Return how many items qualify, as the consistency level sees it.

        Raises:
            IndexUnavailable: the server cannot be reached.
            InvalidOption: for an attribute that the catalogue does not have.
        """
        expression = self._expression(filters)
        return 0 if expression is None else self.count_where(expression)

    def count_where(self, expression: str) -> int:
        """Return how many rows meet an expression of Milvus; raises IndexUnavailable."""
        with self._connection.told("counting"):
            rows = self._connection.client.query(
                self._name, filter=expression, output_fields=["count(*)"], **self._connection.read
            )
            return int(rows[0]["count(*)"])

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
            InvalidOption: for an attribute that the catalogue does not have, or `top_k` out of range.
            IndexMismatch: for embeddings of another dimension.
            IndexUnavailable: the server cannot be reached.
        """
        queries = checked_embeddings(embeddings, self._manifest)
        if not 1 <= top_k <= MAX_TOP_K:
            raise InvalidOption(f"top_k is {top_k}", allowed=f"1 to {MAX_TOP_K}")
        expression = self._expression(filters)
        if expression is None or not len(queries):
            return [[] for _ in queries]
        share = self._share(expression)
        found = self._nearest(queries, top_k, expression, search_params(self._manifest, self._settings, top_k, share))
        found = self._completed(queries, found, top_k, expression)
        floor = -1.0 if min_similarity is None else min_similarity
        return [[hit for hit in hits if hit.similarity >= floor] for hits in found]

    def embeddings_of(self, item_ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings `(len(item_ids), dim)` float32, L2-normalised, of these items, in this order.

        Raises:
            InvalidOption: naming the items that the catalogue does not have.
            IndexUnavailable: the server cannot be reached.
        """
        rows = {row[ITEM_ID]: row[EMBEDDING] for row in self._rows(list(dict.fromkeys(item_ids)), [EMBEDDING])}
        check_items([item_id for item_id in item_ids if item_id not in rows])
        found = np.array([rows[item_id] for item_id in item_ids], dtype=np.float32)
        return found.reshape(len(item_ids), self._manifest.dim)

    def records_of(self, item_ids: Sequence[str]) -> dict[str, ItemRecord]:
        """Return those of these items that the catalogue has, by their ids; raises IndexUnavailable."""
        return {row[ITEM_ID]: record_of(row) for row in self._rows(item_ids, RECORD)}

    def records_with_content(self, content_sha256: Sequence[bytes]) -> dict[str, ItemRecord]:
        """Return the items whose images have one of these sha256 (32 bytes), by their ids; raises IndexUnavailable."""
        found: dict[str, ItemRecord] = {}
        for some in _in_parts([key.hex() for key in content_sha256], _IDS_AT_ONCE):
            for row in self._query(one_of(CONTENT, some), RECORD, MAX_TOP_K):
                found[row[ITEM_ID]] = record_of(row)
        return found

    def records(self, batch: int = 1000) -> Iterator[list[tuple[int, ItemRecord]]]:
        """Yield all items with their positions, batch by batch in no particular order; raises IndexUnavailable."""
        connection = self._connection
        with connection.told("listing items"):
            pages = connection.client.query_iterator(
                self._name, batch_size=batch, output_fields=RECORD, **connection.read
            )
            try:
                while rows := pages.next():
                    yield [(row[POSITION], record_of(row)) for row in rows]
            finally:
                pages.close()

    def upsert(self, records: Sequence[ItemRecord], embeddings: NDArray[np.float32]) -> None:
        """Put items with their `embeddings` `(n, dim)` in, in place of those of the same ids; a listing has them last.

        Raises:
            IndexMismatch: for embeddings of another dimension.
            InvalidOption: for an item that is too large for Milvus.
            IndexUnavailable: the server cannot be reached; a part of the items may be in.
        """
        self._catalogue.include_attributes(self._name, {name for record in records for name in record.attributes})
        # Nanoseconds since 1970 are above the row numbers of any catalogue, and those of a later call above these.
        self.fill(records, embeddings, time.time_ns())
        self.refresh()

    def fill(self, records: Sequence[ItemRecord], embeddings: NDArray[np.float32], first_position: int) -> None:
        """Write items without a look at count and attributes, for a collection that does not serve yet; as `upsert`."""
        vectors, batch = checked_embeddings(embeddings, self._manifest), self._connection.settings.batch_items
        # Of an id that comes twice the last one counts: in one call, a server may keep both.
        rows = {
            record.item_id: row_of(record, vector, position)
            for position, (record, vector) in enumerate(zip(records, vectors, strict=True), start=first_position)
        }
        for some in _in_parts(list(rows.values()), batch):
            with self._connection.told(f"writing {len(some)} items"):
                self._connection.client.upsert(self._name, some, **self._connection.call)

    def delete(self, item_ids: Sequence[str]) -> list[str]:
        """Take items out; return the ids that the catalogue did not have.

        Raises:
            IndexUnavailable: the server cannot be reached; a part of the items may be out.
        """
        there = {row[ITEM_ID] for row in self._rows(item_ids, [ITEM_ID])}
        for some in _in_parts(sorted(there), _IDS_AT_ONCE):
            with self._connection.told(f"deleting {len(some)} items"):
                self._connection.client.delete(self._name, ids=some, **self._connection.call)
                self._connection.note_deletion()
        self.refresh()
        return sorted(set(item_ids) - there)

    def _expression(self, filters: Filters | None) -> str | None:
        if filters and filters.keys() - set(self._manifest.attributes):
            self.refresh()  # another process may have put in items with a new attribute
        return expression_of(filters, self._manifest.attributes)

    def _share(self, expression: str) -> float:
        """Return which share of the items qualifies, where the kind has a use for it: it takes a call of its own."""
        if not expression or self._manifest.kind != "ivf":
            return 1.0
        return min(1.0, self.count_where(expression) / max(1, self._manifest.count))

    def _nearest(
        self, queries: NDArray[np.float32], top_k: int, expression: str, params: dict[str, Any]
    ) -> list[list[Hit]]:
        found: list[list[Hit]] = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            with self._connection.told("searching"):
                answers = self._connection.client.search(
                    self._name,
                    data=list(queries[start : start + _QUERIES_AT_ONCE]),
                    anns_field=EMBEDDING,
                    filter=expression,
                    limit=top_k,
                    output_fields=SHOWN,
                    search_params={"params": params},
                    **self._connection.read,
                )
            for hits in answers:
                rows = zip(hits.ids, hits.distances, hits, strict=True)
                found.append([hit_of(item_id, similarity, hit["entity"]) for item_id, similarity, hit in rows])
        return found

    def _completed(
        self, queries: NDArray[np.float32], found: list[list[Hit]], top_k: int, expression: str
    ) -> list[list[Hit]]:
        """Search again where an approximate kind ended before it had met enough items: widely, then exactly.

        Exactly, while the items that qualify can be read in one call: a graph does not reach every one of many equal
        embeddings.
        """
        short = [row for row, hits in enumerate(found) if len(hits) < top_k]
        if not short or self._manifest.kind == "flat":
            return found
        qualifying = self.count_where(expression)
        for search_again in (self._nearest_widely, self._nearest_exactly):
            short = [row for row in short if len(found[row]) < min(top_k, qualifying)]
            if short and (search_again != self._nearest_exactly or qualifying <= MAX_TOP_K):
                for row, hits in zip(short, search_again(queries[short], top_k, expression), strict=True):
                    found[row] = hits
        return found

    def _nearest_widely(self, queries: NDArray[np.float32], top_k: int, expression: str) -> list[list[Hit]]:
        return self._nearest(queries, top_k, expression, thorough_params(self._manifest))

    def _nearest_exactly(self, queries: NDArray[np.float32], top_k: int, expression: str) -> list[list[Hit]]:
        rows = self._query(expression, [EMBEDDING, *SHOWN], MAX_TOP_K)
        embeddings = np.array([row[EMBEDDING] for row in rows], dtype=np.float32).reshape(-1, self._manifest.dim)
        similarities = queries @ embeddings.T
        best = np.argsort(-similarities, axis=1, kind="stable")[:, :top_k]
        return [
            [hit_of(rows[row][ITEM_ID], float(similarities[query, row]), rows[row]) for row in some]
            for query, some in enumerate(best)
        ]

    def _rows(self, item_ids: Sequence[str], fields: list[str]) -> Iterator[dict[str, Any]]:
        for some in _in_parts(item_ids, _IDS_AT_ONCE):
            yield from self._query(one_of(ITEM_ID, some), fields, len(some))

    def _query(self, expression: str, fields: list[str], limit: int) -> list[dict[str, Any]]:
        """Return the rows that meet an expression, at most `limit`."""
        with self._connection.told("reading items"):
            wanted = list(dict.fromkeys([ITEM_ID, *fields]))
            return list(
                self._connection.client.query(
                    self._name, filter=expression, output_fields=wanted, limit=limit, **self._connection.read
                )
            )


def _in_parts(all_of_them: Sequence[T], most: int) -> Iterator[list[T]]:
    for start in range(0, len(all_of_them), most):
        yield list(all_of_them[start : start + most])
