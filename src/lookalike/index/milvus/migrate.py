"""Moves a catalogue from an index folder into Milvus and back: resumable, checked before it serves."""

from dataclasses import dataclass
from pathlib import Path

from lookalike.config import IndexSettings
from lookalike.errors import IndexDamaged, IndexMismatch, IndexUnavailable
from lookalike.index.draft import Draft
from lookalike.index.edits import build_settings
from lookalike.index.faiss_index import FaissIndex
from lookalike.index.items import ItemRecord
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import Kind, Manifest, read_manifest
from lookalike.index.milvus.agreement import Agreement, agreement_of
from lookalike.index.milvus.catalogue import Collection, MilvusCatalogue
from lookalike.index.milvus.index import MilvusIndex
from lookalike.index.snapshot import Snapshot
from lookalike.index.store import EmbeddingStore
from lookalike.index.verify import verify_snapshot
from lookalike.index.writer import IndexWriter
from lookalike.progress import progress_shown


@dataclass(frozen=True)
class Options:
    """What may be asked of a migration; `new_embedder` allows to take the place of an index of another embedder."""

    kind: Kind | None = None
    new_embedder: bool = False
    sample: int = 100


@dataclass(frozen=True)
class Migrated:
    """The version or collection that now serves, its count, how many items were moved now, and how it was checked."""

    version: str
    count: int
    moved: int
    there_already: int
    agreement: Agreement


def folder_to_milvus(
    index_dir: Path, catalogue: MilvusCatalogue, options: Options, settings: IndexSettings
) -> Migrated:
    """Fill a collection with the published version of `index_dir`, check it, and let the catalogue's alias lead to it.

    A collection that an earlier run has begun is gone on with: what it holds already is not written again.

    Raises:
        IndexMismatch: the catalogue serves another embedder, and that was not asked for.
        IndexDamaged: the version is not whole, or the collection does not agree with it; the alias stays.
        IndexUnavailable: nothing is published in the folder, or the server cannot be reached.
    """
    snapshot = verify_snapshot(IndexLayout(index_dir).published_dir())
    wanted = _of_kind(snapshot.manifest, options.kind, settings)
    serving = catalogue.current()
    if serving is not None:
        _check_embedder(catalogue.manifest(serving), wanted, options, f"milvus:{catalogue.name}")
    faiss_index = FaissIndex(snapshot, settings)
    begun = _begun(catalogue, wanted)
    if begun is not None and begun.state == "ready":
        finished = _finished(faiss_index, MilvusIndex(catalogue, begun.name, settings), catalogue, options)
        if finished is not None:
            return finished
        begun = None  # it was changed since: a new one is made
    name = begun.name if begun else catalogue.create(wanted, wanted.version, wanted.count, settings)
    index = MilvusIndex(catalogue, name, settings)
    there = index.info.count
    moved = _fill(index, snapshot, catalogue.connection.settings.batch_items, resumed=there > 0)
    catalogue.settle(name)
    index.refresh()
    agreement = agreement_of(faiss_index, index, options.sample)
    catalogue.mark_ready(name)
    catalogue.switch_to(name)
    return Migrated(name, index.info.count, moved, wanted.count - moved, agreement)


def milvus_to_folder(
    catalogue: MilvusCatalogue, index_dir: Path, options: Options, settings: IndexSettings
) -> Migrated:
    """Publish the collection that serves as a version of `index_dir`, and check it.

    Embeddings that were read are kept in the folder until a version holds them: a run that was broken off goes on.

    Raises:
        IndexMismatch: the folder's published version is of another embedder, and that was not asked for.
        IndexDamaged: the version does not agree with the collection; the folder's version before is in use again.
        IndexUnavailable: the catalogue is not there, or the server cannot be reached.
        IndexBusy: another process writes the folder.
    """
    index = MilvusIndex(catalogue, catalogue.serving(), settings)
    wanted = _of_kind(index.manifest, options.kind, settings)
    _check_folder(index_dir, wanted, options)
    with IndexWriter(index_dir, settings.keep_versions) as writer:
        base = _published(writer)
        store = EmbeddingStore(writer.layout.embeddings_dir, wanted.fingerprint, wanted.build.preparation, wanted.dim)
        if base is not None and _alike(base.manifest, wanted):
            store.known.include([record.content_sha256 for record in base.items.records()], base.vectors)
        records = _listed(index)
        unread = [record for record in records if record.content_sha256 not in store.known]
        moved = _fetch(index, store, unread, catalogue.connection.settings.batch_items)
        draft = Draft(wanted.embedder, wanted.fingerprint, wanted.dim, wanted.kind, wanted.build, records)
        manifest, _ = writer.publish(draft, store.known, base)
        try:
            published = FaissIndex(writer.current(), settings)
            agreement = agreement_of(published, index, options.sample)
        except IndexDamaged:
            if base is not None:
                writer.use(base.manifest.version)
            raise
        store.drop_published({record.content_sha256 for record in records})
        return Migrated(manifest.version, manifest.count, moved, manifest.count - moved, agreement)


def _fill(index: MilvusIndex, snapshot: Snapshot, batch: int, resumed: bool) -> int:
    """Write the rows that are not there yet, in the order of the version; return how many were written."""
    count = snapshot.manifest.count
    first = _first_missing(index, count, batch) if resumed else 0
    with progress_shown("migrating", count) as advance:
        advance(first)
        for start in range(first, count, batch):
            end = min(start + batch, count)
            # Whatever a killed run left of a batch is written over, by id.
            index.fill(snapshot.items.page(start, end - start), snapshot.vectors[start:end], start)
            advance(end - start)
    return count - first


def _first_missing(index: MilvusIndex, count: int, batch: int) -> int:
    """Return the row up to which all batches are there wholly: they were written in this order."""
    whole, broken = 0, -(-count // batch) + 1  # batches
    while broken - whole > 1:
        middle = (whole + broken) // 2
        rows = min(middle * batch, count)
        if index.count_where(f"position < {rows}") == rows:
            whole = middle
        else:
            broken = middle
    return min(whole * batch, count)


def _listed(index: MilvusIndex) -> list[ItemRecord]:
    """Return all items in their order."""
    listed = sorted((position, record.item_id, record) for batch in index.records() for position, record in batch)
    return [record for _, _, record in listed]


def _fetch(index: MilvusIndex, store: EmbeddingStore, records: list[ItemRecord], batch: int) -> int:
    """Read the embeddings of these items into the store, batch by batch, each on the disk before the next."""
    with progress_shown("migrating", len(records)) as advance:
        for start in range(0, len(records), batch):
            some = records[start : start + batch]
            embeddings = index.embeddings_of([record.item_id for record in some])
            store.save([record.content_sha256 for record in some], embeddings)
            advance(len(some))
    return len(records)


def _of_kind(manifest: Manifest, kind: Kind | None, settings: IndexSettings) -> Manifest:
    """Return `manifest` with the kind that was asked for, made as the settings say."""
    if kind is None or kind == manifest.kind:
        return manifest
    build = build_settings(settings.model_copy(update={"kind": kind}), manifest.build.preparation)
    return manifest.model_copy(update={"kind": kind, "build": build})


def _begun(catalogue: MilvusCatalogue, wanted: Manifest) -> Collection | None:
    """Return the last collection that was filled, wholly or in part, from the same version in the same kind."""
    for name in reversed(catalogue.names()):
        try:
            found = catalogue.describe(name)
        except (IndexDamaged, IndexMismatch):
            continue  # another program's, or one of a newer format
        if found.source == wanted.version and _alike(found.manifest, wanted) and found.manifest.kind == wanted.kind:
            return found
    return None


def _finished(source: FaissIndex, index: MilvusIndex, catalogue: MilvusCatalogue, options: Options) -> Migrated | None:
    """Let a collection serve that an earlier run has filled; None where it does not agree with `source` any more."""
    try:
        agreement = agreement_of(source, index, options.sample)
    except IndexDamaged:
        return None
    catalogue.switch_to(index.info.version)
    return Migrated(index.info.version, index.info.count, 0, index.info.count, agreement)


def _published(writer: IndexWriter) -> Snapshot | None:
    try:
        return writer.current()
    except IndexUnavailable:
        return None


def _check_folder(index_dir: Path, wanted: Manifest, options: Options) -> None:
    """Ask before the writer makes its folders whether the published version may be followed by another one."""
    try:
        published = read_manifest(IndexLayout(index_dir).published_dir())
    except IndexUnavailable:
        return
    _check_embedder(published, wanted, options, str(index_dir))


def _check_embedder(there: Manifest, wanted: Manifest, options: Options, place: str) -> None:
    if options.new_embedder or (there.fingerprint, there.dim) == (wanted.fingerprint, wanted.dim):
        return
    raise IndexMismatch(
        f"{place} serves {there.version} of embedder {there.embedder} {there.fingerprint} ({there.dim} dimensions); "
        f"the source is of {wanted.embedder} {wanted.fingerprint} ({wanted.dim}): "
        "with --new-embedder it takes its place"
    )


def _alike(there: Manifest, wanted: Manifest) -> bool:
    """Tell whether the embeddings of both were made in the same way."""
    made = [(one.fingerprint, one.dim, one.build.preparation) for one in (there, wanted)]
    return made[0] == made[1]
