"""The one writer of an index folder: it holds the lock, writes a version aside and publishes it in one step."""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import IndexBusy, SetupError, VectorIndexError
from lookalike.index.choice import choose_index_kind
from lookalike.index.durable import fsync_path, sha256_of, told_when_full
from lookalike.index.hnsw import build_graph
from lookalike.index.items import ItemRecord, write_items
from lookalike.index.ivf import build_lists
from lookalike.index.layout import IndexLayout, version_number
from lookalike.index.manifest import (
    ITEMS,
    MANIFEST,
    STRUCTURE_FILES,
    VECTORS,
    BuildSettings,
    FileEntry,
    Manifest,
    WantedKind,
    read_manifest,
)
from lookalike.index.snapshot import Snapshot, open_snapshot
from lookalike.index.store import KnownEmbeddings
from lookalike.index.structures import Before
from lookalike.index.verify import verify_snapshot

_BLOCK_ROWS = 2048
_TEMPORARY = ".tmp-"
_BUILDERS = {"hnsw": build_graph, "ivf": build_lists}
_DISK_COPIES = {"flat": 1, "hnsw": 2.2, "ivf": 1.2}  # what a version needs, in sizes of vectors.npy


@dataclass(frozen=True)
class Draft:
    """What a new version shall hold; the records' order is the order of the rows."""

    embedder: str
    fingerprint: str
    dim: int
    kind: WantedKind
    build: BuildSettings
    records: Sequence[ItemRecord]

    def settled(self) -> "Draft":
        """Return the draft with its kind chosen, where the kind follows the count."""
        if self.kind != "auto" and not self.build.kind_by_count:
            return self
        kind = choose_index_kind(len(self.records), self.dim, before="flat" if self.kind == "auto" else self.kind)
        return replace(self, kind=kind, build=self.build.model_copy(update={"kind_by_count": True}))


class IndexWriter:
    """Writes versions while its `with` block holds the lock of the index folder.

    Raises on entry:
        IndexBusy: another process is writing.
    """

    def __init__(self, index_dir: Path, keep_versions: int = 3) -> None:
        self.layout = IndexLayout(index_dir)
        self._keep_versions = keep_versions
        self._lock: TextIOWrapper | None = None

    def __enter__(self) -> Self:
        self.layout.versions_dir.mkdir(parents=True, exist_ok=True)
        self._lock = self.layout.lock.open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise IndexBusy(f"{self.layout.index_dir} is being written by process {holder}; try again later") from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self._remove_leftovers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def current(self) -> Snapshot:
        """Open the published version and read it wholly: a damaged byte must not get into the next version.

        Raises:
            IndexUnavailable: nothing was published.
            IndexDamaged, IndexMismatch: as `verify_snapshot`.
        """
        return verify_snapshot(self.layout.published_dir())

    def previous(self) -> Snapshot | None:
        """Open the version of the embedder before, as `current` does; None when no such one serves."""
        version = self.layout.previous_version()
        return None if version is None else verify_snapshot(self.layout.version_dir(version))

    def publish(
        self,
        draft: Draft,
        known: KnownEmbeddings,
        base: Snapshot | None,
        after: int = 0,
        as_previous: bool = False,
    ) -> tuple[Manifest, bool]:
        """Write `draft` with embeddings from `known` and make it the version in use; return it and whether it is new.

        A draft that equals `base` is not published again. The new version's number is above `after`. With `as_previous`
        it takes the place of the version of the embedder before.

        Raises:
            SetupError: no space is left; the version in use stays.
        """
        draft = draft.settled()
        aside = self.layout.versions_dir / f"{_TEMPORARY}{os.getpid()}"
        aside.mkdir()
        try:
            with told_when_full(self.layout.index_dir):
                self._check_space(draft)
                files, attributes = _write_rows(aside, draft, known)
                if base is not None and _same(base.manifest, draft, files):
                    return base.manifest, False
                files |= _write_structure(aside, draft, base)
                return self._publish(aside, _manifest(draft, files, attributes), after, as_previous), True
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def use(self, version: str) -> Manifest:
        """Publish a version that is still on disk again.

        Raises:
            IndexDamaged: it is not there or not whole.
        """
        manifest = verify_snapshot(self.layout.version_dir(version)).manifest
        self._point_to(manifest)
        return manifest

    def adopt(self, folder: Path) -> Manifest:
        """Take a version that was made elsewhere: `folder` bears its name, lies on the same disk, and is moved here.

        Raises:
            IndexDamaged, IndexMismatch: it is not whole; nothing is taken.
        """
        manifest = verify_snapshot(folder).manifest
        final = self.layout.versions_dir / manifest.version
        if final.exists():
            shutil.rmtree(final)
        folder.rename(final)
        fsync_path(self.layout.versions_dir)
        return manifest

    def retire_previous(self) -> str | None:
        """Forget the version of the embedder before, once nobody serves that embedder; return its name."""
        version = self.layout.previous_version()
        self.layout.previous_pointer.unlink(missing_ok=True)
        self.remove_old()
        return version

    def _point_to(self, manifest: Manifest) -> None:
        """Make a version the one in use; that of another embedder which was in use stays for those who serve it."""
        before = self._in_use()
        if before is not None and before.fingerprint != manifest.fingerprint:
            self.layout.keep_as_previous(before.version)
        self.layout.point_to(manifest.version)

    def _in_use(self) -> Manifest | None:
        try:
            return read_manifest(self.layout.published_dir())
        except VectorIndexError:
            return None  # what cannot be read cannot be served either

    def _publish(self, aside: Path, unnamed: Manifest, after: int, as_previous: bool) -> Manifest:
        numbers = [version_number(name) for name in self.layout.version_names()]
        manifest = unnamed.named(max([after, *numbers]) + 1)
        (aside / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for path in aside.iterdir():
            fsync_path(path)
        fsync_path(aside)
        final = self.layout.versions_dir / manifest.version
        aside.rename(final)
        fsync_path(self.layout.versions_dir)
        open_snapshot(final)
        if as_previous:
            self.layout.keep_as_previous(manifest.version)
        else:
            self._point_to(manifest)
        self.remove_old()
        return manifest

    def _check_space(self, draft: Draft) -> None:
        needed = _DISK_COPIES[draft.kind] * len(draft.records) * draft.dim * 4
        free = shutil.disk_usage(self.layout.index_dir).free
        if needed > free:
            raise SetupError(
                f"no space left to write under {self.layout.index_dir}: the version needs {needed / 1e6:.0f} MB, "
                f"{free / 1e6:.0f} MB are free; the published version stays in use"
            )

    def _remove_leftovers(self) -> None:
        """Delete what a writer that was killed left half-written."""
        for path in self.layout.versions_dir.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.layout.embeddings_dir.glob(f"*/{_TEMPORARY}*"):
            path.unlink(missing_ok=True)

    def remove_old(self) -> None:
        """Delete the oldest versions but the last `keep_versions` and those that serve."""
        in_use = {self.layout.current_version(), self.layout.previous_version()}
        for name in self.layout.version_names()[: -self._keep_versions]:
            if name not in in_use:
                shutil.rmtree(self.layout.versions_dir / name, ignore_errors=True)


def _write_rows(aside: Path, draft: Draft, known: KnownEmbeddings) -> tuple[dict[str, FileEntry], list[str]]:
    _write_vectors(aside / VECTORS, draft, known)
    attributes = write_items(aside / ITEMS, draft.records)
    return {name: _entry(aside / name) for name in (VECTORS, ITEMS)}, attributes


def _write_vectors(path: Path, draft: Draft, known: KnownEmbeddings) -> None:
    # Written as a stream: a write into a map of a full disk ends the process (SIGBUS) instead of raising.
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(draft.records), draft.dim)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in _blocks([record.content_sha256 for record in draft.records], known):
            file.write(block)


def _blocks(keys: Sequence[bytes], known: KnownEmbeddings) -> Iterator[memoryview]:
    for start in range(0, len(keys), _BLOCK_ROWS):
        yield known.gather(keys[start : start + _BLOCK_ROWS]).data


def _write_structure(aside: Path, draft: Draft, base: Snapshot | None) -> dict[str, FileEntry]:
    if draft.kind == "auto" or draft.kind not in STRUCTURE_FILES:
        return {}
    name = STRUCTURE_FILES[draft.kind]
    vectors: NDArray[np.float32] = np.zeros((0, draft.dim), dtype=np.float32)
    if draft.records:
        vectors = np.load(aside / VECTORS, mmap_mode="r", allow_pickle=False)
    _BUILDERS[draft.kind](aside / name, vectors, draft.build, _before(base, draft, name))
    return {name: _entry(aside / name)}


def _before(base: Snapshot | None, draft: Draft, name: str) -> Before | None:
    """Return the structure of `base`, where `draft` is made alike and holds much of the same."""
    if base is None:
        return None
    manifest = base.manifest
    if (manifest.kind, manifest.fingerprint, manifest.build) != (draft.kind, draft.fingerprint, draft.build):
        return None
    before, now = ([record.content_sha256 for record in records] for records in (base.items.records(), draft.records))
    rows_stay = before == now[: len(before)]
    # What was learned from another catalogue fits this one badly.
    alike = rows_stay or 2 * len(set(before) & set(now)) >= len(now)
    return Before(base.version_dir / name, rows_stay) if alike else None


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)


def _same(manifest: Manifest, draft: Draft, files: dict[str, FileEntry]) -> bool:
    identity = (manifest.embedder, manifest.fingerprint, manifest.dim, manifest.kind, manifest.build)
    wanted = (draft.embedder, draft.fingerprint, draft.dim, draft.kind, draft.build)
    return identity == wanted and all(manifest.files.get(name) == entry for name, entry in files.items())


def _manifest(draft: Draft, files: dict[str, FileEntry], attributes: Iterable[str]) -> Manifest:
    assert draft.kind != "auto"
    return Manifest(
        version="",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        kind=draft.kind,
        embedder=draft.embedder,
        fingerprint=draft.fingerprint,
        dim=draft.dim,
        count=len(draft.records),
        attributes=list(attributes),
        build=draft.build,
        files=files,
    )
