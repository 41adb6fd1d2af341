"""The one writer of an index folder: it holds the lock, writes a version aside and publishes it in one step."""

import fcntl
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Self

from lookalike.errors import IndexBusy, NotStored, VectorIndexError
from lookalike.index.draft import Draft, write_rows, write_structure
from lookalike.index.durable import fsync_path, told_when_not_stored
from lookalike.index.layout import IndexLayout, version_number
from lookalike.index.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    read_manifest,
)
from lookalike.index.snapshot import Snapshot, open_snapshot
from lookalike.index.store import KnownEmbeddings
from lookalike.index.verify import verify_snapshot

_TEMPORARY = ".tmp-"
_DISK_COPIES = {"flat": 1, "hnsw": 2.2, "ivf": 1.2}  # what a version needs, in sizes of vectors.npy


class IndexWriter:
    """Writes versions while its `with` block holds the lock of the index folder.

    Raises on entry:
        IndexBusy, NotStored: another process is writing; the folder cannot be written.
    """

    def __init__(self, index_dir: Path, keep_versions: int = 3) -> None:
        self.layout = IndexLayout(index_dir)
        self._keep_versions = keep_versions
        self._lock: TextIOWrapper | None = None

    def __enter__(self) -> Self:
        with told_when_not_stored(self.layout.index_dir):
            self.layout.versions_dir.mkdir(parents=True, exist_ok=True)
            self._lock = self.layout.lock.open("a+")
            try:
                self._take(self._lock)
            except BaseException:
                self._lock.close()
                raise
        return self

    def _take(self, lock: TextIOWrapper) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            by = f"by process {lock.read().strip() or 'unknown'}; try again later"
            raise IndexBusy(f"{self.layout.index_dir} is being written {by}") from error
        self._remove_leftovers()  # first: on a full disk they may be what leaves no room for anything
        lock.truncate(0)
        with suppress(OSError):  # for the message above alone
            os.write(lock.fileno(), str(os.getpid()).encode())

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
            NotStored: no space is left; the version in use stays.
        """
        draft = draft.settled()
        aside = self.layout.versions_dir / f"{_TEMPORARY}{os.getpid()}"
        try:
            with told_when_not_stored(self.layout.index_dir):
                aside.mkdir()
                self._check_space(draft)
                files, attributes = write_rows(aside, draft, known)
                if base is not None and _same(base.manifest, draft, files):
                    return base.manifest, False
                files |= write_structure(aside, draft, base)
                return self._publish(aside, _manifest(draft, files, attributes), after, as_previous), True
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def use(self, version: str) -> Manifest:
        """Publish a version that is still on disk again.

        Raises:
            IndexDamaged: it is not there or not whole.
        """
        manifest = verify_snapshot(self.layout.version_dir(version)).manifest
        with told_when_not_stored(self.layout.index_dir):
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
            raise NotStored(
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
