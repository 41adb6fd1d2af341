"""Build, add and remove: each makes a new version from a catalogue and from the version before."""

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from lookalike.catalogue import Catalogue, Item, printable
from lookalike.config import IndexSettings
from lookalike.errors import IndexMismatch, IndexUnavailable, SetupError, VectorIndexError
from lookalike.index.draft import Draft
from lookalike.index.durable import told_when_not_stored
from lookalike.index.items import ItemRecord
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import BuildSettings, Manifest, WantedKind
from lookalike.index.merge import merge_records
from lookalike.index.snapshot import Snapshot
from lookalike.index.store import EmbeddingStore, KnownEmbeddings
from lookalike.index.writer import IndexWriter
from lookalike.ingest import ImageEmbedder, Ingest, IngestOptions, Problem
from lookalike.progress import progress_shown

log = logging.getLogger(__name__)


@dataclass
class Edit:
    """What an edit did: the version now in use, whether it is a new one, counts, and what could not be taken."""

    manifest: Manifest
    published: bool
    added: int = 0
    replaced: int = 0
    removed: int = 0
    embedded: int = 0
    kept_existing: int = 0
    ignored_files: int = 0
    unknown_ids: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    report: Path | None = None

    def count(self, kind: str) -> int:
        """Return how many problems are of `kind`."""
        return sum(problem.kind == kind for problem in self.problems)


@dataclass(frozen=True)
class _Ground:
    """What an ingest builds on: how the index is made, the version that lends its embeddings, the items that stay."""

    kind: WantedKind
    build: BuildSettings
    base: Snapshot | None
    records: list[ItemRecord]


class IndexEditor:
    """Changes the index in a folder by publishing new versions; every method holds the folder's lock.

    Raises from every method:
        IndexBusy: another process is writing.
        SetupError: no space is left; the version in use stays.
    """

    def __init__(self, index_dir: Path, settings: IndexSettings, options: IngestOptions | None = None) -> None:
        self._index_dir, self._settings, self._options = index_dir, settings, options or IngestOptions()

    def build(self, catalogue: Catalogue, embedder: ImageEmbedder) -> Edit:
        """Publish a version that holds the catalogue and nothing else; embeddings that are known are not made again.

        Raises:
            SetupError: no image of the catalogue can be read; nothing is published.
        """
        build = build_settings(self._settings, embedder.preparation)
        with self._writer() as writer:
            ground = _Ground(self._settings.kind, build, lender(writer, embedder.fingerprint, embedder.preparation), [])
            return self._ingest(writer, catalogue, embedder, ground)

    def add(self, catalogue: Catalogue, embedder: ImageEmbedder) -> Edit:
        """Publish a version with the catalogue's items besides those that are there; a kind that was asked for stays.

        Raises:
            IndexMismatch: the index was built by another embedder or with another preparation.
            IndexUnavailable, IndexDamaged: there is no version to add to.
        """
        IndexLayout(self._index_dir).published_dir()  # asked before the writer makes its folders
        with self._writer() as writer:
            base = writer.current()
            _check_alike(base.manifest, embedder)
            ground = _Ground(base.manifest.kind, base.manifest.build, base, base.items.records())
            return self._ingest(writer, catalogue, embedder, ground)

    def remove(self, item_ids: Sequence[str]) -> Edit:
        """Publish a version without the items of these ids; unknown ids are reported.

        While two embedders serve, the items leave the index of both.

        Raises:
            IndexUnavailable, IndexDamaged: there is no version to remove from.
        """
        IndexLayout(self._index_dir).published_dir()  # asked before the writer makes its folders
        with self._writer() as writer:
            base, previous = writer.current(), writer.previous()
            if previous is not None:
                _without(writer, previous, item_ids, as_previous=True)
            manifest, published, removed = _without(writer, base, item_ids)
            unknown = sorted(set(item_ids) - set(base.items.item_ids()))
            return Edit(manifest, published, removed=removed, unknown_ids=unknown)

    def _writer(self) -> IndexWriter:
        return IndexWriter(self._index_dir, self._settings.keep_versions)

    def _ingest(self, writer: IndexWriter, catalogue: Catalogue, embedder: ImageEmbedder, ground: _Ground) -> Edit:
        """Embed the catalogue's items, put them over the ground's, publish the result and report the rest."""
        there = {record.item_id for record in ground.records} if self._options.existing == "keep" else set()
        wanted = [item for item in catalogue.items if item.item_id not in there]
        store = EmbeddingStore(writer.layout.embeddings_dir, embedder.fingerprint, embedder.preparation, embedder.dim)
        if ground.base is not None:
            store.known.include([record.content_sha256 for record in ground.base.items.records()], ground.base.vectors)
        with progress_shown("embedding", len(wanted)) as advance:
            embedded = Ingest(embedder, store, self._options, self._settings.chunk_items).run(wanted, advance)
        keys = embedded.content_sha256
        incoming = [record_of(item, keys[item.item_id]) for item in wanted if item.item_id in keys]
        merged = merge_records(ground.records, incoming, self._options.duplicates)
        problems = [*embedded.problems, *merged.duplicates]
        report = write_report(writer.layout.reports_dir, problems)
        if not merged.records:
            raise SetupError(_nothing_to_index(catalogue, problems, report))
        draft = Draft(embedder.name, embedder.fingerprint, embedder.dim, ground.kind, ground.build, merged.records)
        manifest, published = writer.publish(draft, store.known, ground.base)
        store.drop_published({record.content_sha256 for record in merged.records})
        return Edit(
            manifest,
            published,
            added=merged.added,
            replaced=merged.replaced,
            embedded=embedded.new_embeddings,
            kept_existing=len(catalogue.items) - len(wanted),
            ignored_files=catalogue.ignored,
            problems=problems,
            report=report,
        )


def build_settings(settings: IndexSettings, preparation: str) -> BuildSettings:
    """Return how a new index is made, as its manifest tells it."""
    hnsw = settings.kind == "hnsw"
    return BuildSettings(
        preparation=preparation,
        hnsw_m=settings.hnsw_m if hnsw else None,
        ef_construction=settings.ef_construction if hnsw else None,
    )


def lender(writer: IndexWriter, fingerprint: str, preparation: str) -> Snapshot | None:
    """Return the version in use when its embeddings can be used again; a damaged one does not hinder a new build."""
    try:
        base = writer.current()
    except IndexUnavailable:
        return None
    except VectorIndexError as error:
        log.warning("the version in use lends no embeddings: %s", error)
        return None
    alike = (base.manifest.fingerprint, base.manifest.build.preparation) == (fingerprint, preparation)
    return base if alike else None


def _without(
    writer: IndexWriter, base: Snapshot, item_ids: Sequence[str], as_previous: bool = False
) -> tuple[Manifest, bool, int]:
    """Publish `base` without these items; return the version in use, whether it is new, and how many items went."""
    records, unwanted = base.items.records(), set(item_ids)
    kept = [record for record in records if record.item_id not in unwanted]
    known = KnownEmbeddings(base.manifest.dim)
    known.include([record.content_sha256 for record in records], base.vectors)
    manifest, published = writer.publish(_draft_like(base.manifest, kept), known, base, as_previous=as_previous)
    return manifest, published, len(records) - len(kept)


def _check_alike(manifest: Manifest, embedder: ImageEmbedder) -> None:
    if manifest.fingerprint != embedder.fingerprint:
        raise IndexMismatch(
            f"index version {manifest.version} was built with embedder {manifest.embedder} {manifest.fingerprint}; "
            f"{embedder.name} {embedder.fingerprint} cannot add to it: build the index anew"
        )
    if manifest.build.preparation != embedder.preparation:
        raise IndexMismatch(
            f"index version {manifest.version} was built with preparation {manifest.build.preparation!r}; "
            f"{embedder.preparation!r} cannot be added to it: build the index anew"
        )


def _draft_like(manifest: Manifest, records: list[ItemRecord]) -> Draft:
    return Draft(manifest.embedder, manifest.fingerprint, manifest.dim, manifest.kind, manifest.build, records)


def record_of(item: Item, content_sha256: bytes) -> ItemRecord:
    """Return a catalogue's item as the index keeps it."""
    return ItemRecord(
        item_id=item.item_id,
        content_sha256=content_sha256,
        path=printable(os.path.abspath(item.path) if isinstance(item.path, Path) else str(item.path)),
        title=item.title,
        url=item.url,
        attributes=item.attributes,
    )


def write_report(folder: Path, problems: list[Problem]) -> Path | None:
    """Write one JSON object a problem; return the file, or None when there is nothing to report."""
    if not problems:
        return None
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.jsonl"
    with told_when_not_stored(folder):
        folder.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems))
    return path


def _nothing_to_index(catalogue: Catalogue, problems: list[Problem], report: Path | None) -> str:
    if not problems:
        return f"{catalogue.source} holds no image: nothing was published"
    first = problems[0]
    return (
        f"none of the {len(problems)} images of {catalogue.source} can be read: nothing was published; "
        f"the first is {first.path}: {first.reason}; all are in {report}"
    )
