"""Embeds items and puts them into a catalogue in Milvus, where the next search finds them."""

from dataclasses import dataclass
from pathlib import Path

from lookalike.catalogue import Catalogue
from lookalike.errors import IndexMismatch
from lookalike.index.edits import record_of
from lookalike.index.merge import merge_records
from lookalike.index.milvus.index import MilvusIndex
from lookalike.index.store import EmbeddingStore
from lookalike.ingest import ImageEmbedder, Ingest, IngestOptions, Problem
from lookalike.progress import progress_shown


@dataclass(frozen=True)
class Added:
    """How many items are new, how many were replaced, and what could not be taken."""

    added: int
    replaced: int
    problems: list[Problem]


def add_items(
    index: MilvusIndex,
    catalogue: Catalogue,
    embedder: ImageEmbedder,
    embeddings_dir: Path,
    options: IngestOptions,
    chunk_items: int,
) -> Added:
    """Put the items of `catalogue` in besides those that are there; one whose id is there takes its place.

    Embeddings are kept in `embeddings_dir` until Milvus has them: a run that was broken off goes on.

    Raises:
        IndexMismatch: the collection was made by another embedder, or with another preparation.
        IndexUnavailable: the server cannot be reached; a part of the items may be in.
        SetupError: no space is left.
    """
    _check_alike(index, embedder)
    store = EmbeddingStore(embeddings_dir, embedder.fingerprint, embedder.preparation, embedder.dim)
    with progress_shown("embedding", len(catalogue.items)) as advance:
        embedded = Ingest(embedder, store, options, chunk_items).run(catalogue.items, advance)
    keys = embedded.content_sha256
    incoming = [record_of(item, keys[item.item_id]) for item in catalogue.items if item.item_id in keys]
    before = index.records_of([record.item_id for record in incoming])
    before |= index.records_with_content([record.content_sha256 for record in incoming])
    merged = merge_records(list(before.values()), incoming, options.duplicates)
    new = [record for record in merged.records if before.get(record.item_id) != record]
    index.upsert(new, store.known.gather([record.content_sha256 for record in new]))
    store.drop_published(set(keys.values()))
    return Added(merged.added, merged.replaced, [*embedded.problems, *merged.duplicates])


def _check_alike(index: MilvusIndex, embedder: ImageEmbedder) -> None:
    manifest = index.manifest
    made = f"{manifest.embedder} {manifest.fingerprint}, preparation {manifest.build.preparation!r}"
    if (manifest.fingerprint, manifest.build.preparation) != (embedder.fingerprint, embedder.preparation):
        raise IndexMismatch(
            f"collection {index.info.version} was made with embedder {made}; {embedder.name} {embedder.fingerprint}, "
            f"preparation {embedder.preparation!r}, cannot add to it"
        )
