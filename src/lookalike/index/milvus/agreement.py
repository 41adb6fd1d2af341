"""Whether a collection in Milvus and a version on disk hold the same and find the same: by count and by a sample."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import IndexDamaged
from lookalike.index.faiss_index import FaissIndex
from lookalike.index.milvus.index import MilvusIndex
from lookalike.schemas import Hit

_HITS = 10
_SAME_SIMILARITY = 1e-5  # two engines add up the same numbers in another order
_LEAST_SHARE = 0.95  # of the true hits, on average, where the kind is an approximate one


@dataclass(frozen=True)
class Agreement:
    """How many stored embeddings were searched for, and the share of exact search's hits that came back."""

    count: int
    sample: int
    share: float


def agreement_of(version: FaissIndex, collection: MilvusIndex, sample: int, seed: int = 0) -> Agreement:
    """Compare the counts; then embeddings, items and the nearest ten of a sample of stored embeddings.

    An exact collection must give the hits of exact search, but for those of one and the same similarity; an
    approximate one nearly all of them.

    Raises:
        IndexDamaged: naming what differs.
        IndexUnavailable: the server cannot be reached.
    """
    count, name = version.manifest.count, collection.info.version
    if (found := collection.count()) != count:
        raise IndexDamaged(f"collection {name} holds {found} items; version {version.info.version} holds {count}")
    rows = np.sort(np.random.default_rng(seed).choice(count, size=min(sample, count), replace=False))
    if not len(rows):
        return Agreement(count, 0, 1.0)
    embeddings = np.asarray(version.vectors[rows])
    _check_items(version, collection, rows, embeddings)
    return Agreement(count, len(rows), _check_hits(version, collection, embeddings))


def _check_items(
    version: FaissIndex, collection: MilvusIndex, rows: NDArray[np.int64], embeddings: NDArray[np.float32]
) -> None:
    records = [version.items.page(int(row), 1)[0] for row in rows]
    item_ids = [record.item_id for record in records]
    there = collection.records_of(item_ids)
    for record in records:
        if there.get(record.item_id) != record:
            raise IndexDamaged(
                f"item {record.item_id!r} of {version.info.version} is another one in {collection.info.version}"
            )
    far = np.flatnonzero(np.abs(collection.embeddings_of(item_ids) - embeddings).max(axis=1) > _SAME_SIMILARITY)
    if len(far):
        raise IndexDamaged(f"the embedding of item {item_ids[far[0]]!r} is another one in {collection.info.version}")


def _check_hits(version: FaissIndex, collection: MilvusIndex, embeddings: NDArray[np.float32]) -> float:
    true_rows = version.exact_rows(embeddings, _HITS)
    exact, shares = collection.manifest.kind == "flat", []
    for query, rows, hits in zip(embeddings, true_rows, collection.search(embeddings, _HITS), strict=True):
        true = {record.item_id for row in rows for record in version.items.page(int(row), 1)}
        floor = float((version.vectors[rows] @ query).min())
        share = _share(true, floor, hits)
        if exact and share < 1:
            raise IndexDamaged(f"collection {collection.info.version} does not find what exact search finds")
        shares.append(share)
    mean = float(np.mean(shares))
    if mean < _LEAST_SHARE:
        raise IndexDamaged(
            f"collection {collection.info.version} finds {mean:.3f} of what exact search finds; "
            f"at least {_LEAST_SHARE} is wanted"
        )
    return mean


def _share(true: set[str], floor: float, hits: list[Hit]) -> float:
    """Return the share of `true` that was found; a hit as near as the last of them is one of them."""
    good = [hit for hit in hits if hit.item_id in true or hit.similarity >= floor - _SAME_SIMILARITY]
    return min(1.0, len(good) / len(true))
