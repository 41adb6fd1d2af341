"""Snapshots: an index version as one tar file, made, taken back, checked and published."""

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from lookalike.errors import IndexDamaged, InvalidRequest, UnknownPath
from lookalike.gateway.index_view import IMAGES_DIR, ImageFiles
from lookalike.index.durable import fsync_path, sha256_of, told_when_not_stored
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import ITEMS, MANIFEST, STRUCTURE_FILES, VECTORS, Manifest
from lookalike.index.snapshot import open_snapshot
from lookalike.index.verify import verify_snapshot
from lookalike.index.writer import IndexWriter
from lookalike.item_schemas import SnapshotInfo

SNAPSHOTS_DIR = "snapshots"
_SUFFIX = ".tar"
_IMAGE = re.compile(rf"{IMAGES_DIR}/([0-9a-f]{{64}})")
_VERSION_FILES = (MANIFEST, VECTORS, ITEMS, *STRUCTURE_FILES.values())
_MAX_MANIFEST = 1_000_000
_TEMPORARY = ".tmp-"  # which the writer removes when it finds one that was left


class Snapshots:
    """The snapshots of one index folder; the names were checked before. Every change holds the writer's lock."""

    def __init__(self, index_dir: Path, images: ImageFiles) -> None:
        self._index_dir, self._images = index_dir, images
        self._folder = index_dir / SNAPSHOTS_DIR

    def list(self) -> "list[SnapshotInfo]":
        """Return all, by name."""
        return [self._info(path) for path in sorted(self._folder.glob(f"*{_SUFFIX}")) if not _is_temporary(path)]

    def file(self, name: str) -> Path:
        """Return the tar file; raises UnknownPath."""
        path = self._folder / f"{name}{_SUFFIX}"
        if not path.is_file():
            raise UnknownPath(f"there is no snapshot {name!r}", allowed=[info.name for info in self.list()])
        return path

    def create(self, name: str) -> SnapshotInfo:
        """Write the published version as a snapshot, over one of the same name.

        Raises:
            IndexUnavailable, IndexDamaged, IndexBusy, SetupError: nothing to keep, another writer, no space.
        """
        IndexLayout(self._index_dir).published_dir()
        with IndexWriter(self._index_dir) as writer, self._written(name) as file:
            version_dir = writer.layout.published_dir()
            hashes = sorted(open_snapshot(version_dir).items.content_hashes())
            with tarfile.open(fileobj=file, mode="w") as tar:
                for member in _VERSION_FILES:  # the manifest first: a listing reads no further
                    if (version_dir / member).is_file():
                        tar.add(version_dir / member, member, filter=_anonymous)
                for path in (self._images.path(content_sha256) for content_sha256 in hashes):
                    if path.is_file():
                        tar.add(path, f"{IMAGES_DIR}/{path.name}", filter=_anonymous)
        return self._info(self.file(name))

    def delete(self, name: str) -> None:
        """Delete a snapshot; raises UnknownPath."""
        self.file(name).unlink(missing_ok=True)

    @contextmanager
    def upload(self, name: str, size: int) -> "Iterator[io.BufferedWriter]":
        """Yield the file that an upload of `size` bytes is written to; it counts when the block ends well.

        Raises:
            InvalidRequest: it is no snapshot.
            SetupError: there is no space for it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        if size > shutil.disk_usage(self._folder).free:
            raise InvalidRequest(f"there is no space for {size} bytes")
        with self._written(name) as file:
            yield file
            file.flush()
            self._info(Path(file.name))

    def restore(self, name: str) -> Manifest:
        """Unpack a snapshot aside, read all of it, and publish it.

        Raises:
            UnknownPath: there is none of this name.
            IndexDamaged: it is not whole; nothing was published.
            IndexBusy, SetupError: another writer, no space.
        """
        path = self.file(name)
        with IndexWriter(self._index_dir) as writer, told_when_not_stored(self._index_dir):
            aside = writer.layout.versions_dir / f"{_TEMPORARY}restore-{os.getpid()}"
            try:
                self._unpack(path, aside)
                return self._publish(writer, aside)
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def _publish(self, writer: IndexWriter, aside: Path) -> Manifest:
        version = _manifest_in((aside / MANIFEST).read_bytes()).version
        final = writer.layout.versions_dir / version
        # A version is named by the hash of its manifest: what is there under this name and whole is the same.
        if not final.exists():
            # Checked under its own name, in a folder that nobody looks into.
            checked = aside.with_name(f"{aside.name}-checked") / version
            try:
                checked.parent.mkdir()
                aside.rename(checked)
                verify_snapshot(checked)
                checked.rename(final)
            finally:
                shutil.rmtree(checked.parent, ignore_errors=True)
            fsync_path(final.parent)
        return writer.use(version)

    def _unpack(self, path: Path, aside: Path) -> None:
        aside.mkdir()
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    self._unpack_one(tar, member, aside)
        except (tarfile.TarError, EOFError) as error:
            raise IndexDamaged(f"snapshot {path.stem} is no whole tar file: {error}") from error
        if not (aside / MANIFEST).is_file():
            raise IndexDamaged(f"snapshot {path.stem} holds no {MANIFEST}")

    def _unpack_one(self, tar: tarfile.TarFile, member: tarfile.TarInfo, aside: Path) -> None:
        image = _IMAGE.fullmatch(member.name)
        if not member.isreg() or member.issparse() or (image is None and member.name not in _VERSION_FILES):
            raise IndexDamaged(f"the snapshot holds {member.name[:80]!a}, which is no part of one")
        source = tar.extractfile(member)
        assert source is not None
        target = aside / (image[1] if image else member.name)
        with source, target.open("xb") as file:
            shutil.copyfileobj(source, file)
        fsync_path(target)
        if image is None:
            return
        if sha256_of(target) != image[1]:
            raise IndexDamaged(f"image {image[1]} of the snapshot is damaged")
        self._images.folder.mkdir(parents=True, exist_ok=True)
        target.rename(self._images.folder / image[1])

    @contextmanager
    def _written(self, name: str) -> "Iterator[io.BufferedWriter]":
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"{_TEMPORARY}{os.getpid()}-{name}{_SUFFIX}"
        try:
            with told_when_not_stored(self._folder), temporary.open("wb") as file:
                yield file
            fsync_path(temporary)
            temporary.replace(self._folder / f"{name}{_SUFFIX}")
            fsync_path(self._folder)
        finally:
            temporary.unlink(missing_ok=True)

    def _info(self, path: Path) -> SnapshotInfo:
        try:
            with tarfile.open(path, "r:") as tar:
                member = tar.next()
                source = tar.extractfile(member) if member is not None and member.name == MANIFEST else None
                manifest = _manifest_in(source.read(_MAX_MANIFEST)) if source is not None else None
        except (tarfile.TarError, EOFError, IndexDamaged) as error:
            raise InvalidRequest(f"this is no snapshot: {error}") from error
        if manifest is None:
            raise InvalidRequest(f"this is no snapshot: it does not begin with {MANIFEST}")
        return SnapshotInfo(name=path.stem, version=manifest.version, count=manifest.count, bytes=path.stat().st_size)


def _manifest_in(data: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(data)
    except (ValidationError, json.JSONDecodeError) as error:
        raise IndexDamaged(f"{MANIFEST} cannot be read") from error
    if not re.fullmatch(r"\d{6,}-[0-9a-f]{8}", manifest.version):
        raise IndexDamaged(f"{MANIFEST} names no version")
    return manifest


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(_TEMPORARY)
