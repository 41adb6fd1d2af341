"""The index as a store holds it, laid out as an index folder: versions first, pointers last, nothing overwritten."""

import json
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from lookalike.delivery.store import Store, open_store
from lookalike.delivery.transfer import check_size, send_file
from lookalike.errors import IndexDamaged, StoreMissing, StoreMoved
from lookalike.index.durable import replace_file
from lookalike.index.layout import IndexLayout, version_in, version_number
from lookalike.index.manifest import MANIFEST, Manifest, read_manifest
from lookalike.index.verify import verify_snapshot

CURRENT, PREVIOUS, VERSIONS = "CURRENT", "PREVIOUS", "versions"
_ORIGIN = ".origin"


class Pointers(NamedTuple):
    """The version that a store has published, and the last one of the embedder before, while both serve."""

    current: str | None
    previous: str | None


class IndexStore:
    """Versions of the index in a store."""

    def __init__(self, store: Store) -> None:
        self.store, self.url = store, store.url

    def pointers(self) -> Pointers:
        """Return which versions serve.

        Raises:
            StoreUnreachable, StoreError; IndexDamaged: a pointer holds something else than a version's name.
        """
        return Pointers(self._pointer(CURRENT), self._pointer(PREVIOUS))

    def _pointer(self, name: str) -> str | None:
        content = self.store.read_if_there(name)
        return None if content is None else version_in(content, f"{self.url}/{name}")

    def version_names(self) -> list[str]:
        """Return the versions in the store, oldest first, whole or not."""
        names = [name for name in self.store.names(VERSIONS) if _is_version(name)]
        return sorted(names, key=version_number)

    def manifest_bytes(self, version: str) -> bytes:
        """Return the manifest of a version as it was written.

        Raises:
            StoreMissing: the version is not there, or its upload was broken off.
        """
        try:
            return self.store.read(object_name(version, MANIFEST))
        except StoreMissing as error:
            raise StoreMissing(f"index version {version} is not whole in {self.url}: {error.message}") from error

    def manifest(self, version: str) -> Manifest:
        """Return the checked manifest of a version; as `manifest_bytes`.

        Raises:
            IndexDamaged: it was altered.
        """
        with TemporaryDirectory() as folder:
            return write_manifest(Path(folder) / version, self.manifest_bytes(version))

    def publish(self, version_dir: Path, expected: str | None) -> Manifest:
        """Put the version in `version_dir` and make it the one in use, when `expected` is still that.

        Raises:
            StoreMoved: another version was published meanwhile; the files are there, CURRENT stays.
            IndexDamaged: the version is not whole.
        """
        manifest = self._send(version_dir)
        self.point_to(manifest, expected)
        return manifest

    def publish_previous(self, version_dir: Path) -> None:
        """Put the version in `version_dir` in the place of that of the embedder before; as `publish`."""
        self.store.put(PREVIOUS, _content(self._send(version_dir).version))

    def _send(self, version_dir: Path) -> Manifest:
        manifest = verify_snapshot(version_dir).manifest
        for name in manifest.files:
            send_file(self.store, version_dir / name, object_name(manifest.version, name))
        self.store.put_new(object_name(manifest.version, MANIFEST), (version_dir / MANIFEST).read_bytes())
        return manifest

    def point_to(self, manifest: Manifest, expected: str | None) -> None:
        """Make a version that the store holds the one in use, when `expected` is still that.

        Raises:
            StoreMoved: another version was published meanwhile.
        """
        before = self._readable(expected)
        if before is not None and before.fingerprint != manifest.fingerprint:
            # First: who serves the embedder before must find its index at every moment.
            self.store.put(PREVIOUS, _content(before.version))
        try:
            self.store.swap(CURRENT, _content(manifest.version), None if expected is None else _content(expected))
        except StoreMoved as error:
            raise moved(self.url, self._pointer(CURRENT), expected) from error

    def retire_previous(self) -> str | None:
        """Forget the version of the embedder before, once nobody serves that embedder; return its name."""
        version = self._pointer(PREVIOUS)
        self.store.remove(PREVIOUS)
        return version

    def remove_old(self, keep_versions: int) -> None:
        """Delete the oldest versions but the last `keep_versions` and those that serve."""
        pointers = self.pointers()
        for version in self.version_names()[:-keep_versions]:
            if version not in pointers:
                # Its manifest first: what is half deleted must not look whole.
                self.store.remove(object_name(version, MANIFEST))
                self.store.remove(f"{VERSIONS}/{version}")

    def _readable(self, version: str | None) -> Manifest | None:
        if version is not None:
            with suppress(IndexDamaged, StoreMissing):  # what cannot be read cannot be served either
                return self.manifest(version)
        return None


def push_index(index_dir: Path, target: IndexStore, keep_versions: int) -> tuple[Manifest, bool]:
    """Publish the version in use of `index_dir` in the store; return it, and whether it was not there already.

    Raises:
        StoreMoved: the folder was not made from the version that the store has in use: an edit would be lost.
        IndexUnavailable, IndexDamaged: the folder has no whole version.
    """
    layout = IndexLayout(index_dir)
    version_dir = layout.published_dir()
    in_store, previous_in_store = target.pointers()
    if in_store == version_dir.name:
        return read_manifest(version_dir), False
    if in_store is not None and in_store != origin_of(index_dir, target.url):
        raise moved(target.url, in_store, origin_of(index_dir, target.url))
    manifest = target.publish(version_dir, in_store)
    previous = layout.previous_version()
    # A removal is made in both versions; one that was retired in the store stays so.
    if previous is not None and previous_in_store is not None and previous not in (previous_in_store, in_store):
        target.publish_previous(layout.version_dir(previous))
    keep_origin(index_dir, target.url, manifest.version)
    target.remove_old(keep_versions)
    return manifest, True


def use_again(url: str, version: str) -> Manifest:
    """Make a version that the store at `url` still holds the one in use; return its manifest.

    Raises:
        StoreMissing, IndexDamaged: it is not there, or was altered.
        StoreDamaged: one of its files is missing or cut.
    """
    target = IndexStore(open_store(url))
    if not _is_version(version):
        raise StoreMissing(f"index version {version!r} is not in {url}", allowed=target.version_names())
    manifest = target.manifest(version)
    for name, entry in manifest.files.items():
        check_size(target.store, object_name(version, name), entry)
    target.point_to(manifest, target.pointers().current)
    return manifest


def moved(url: str, found: str | None, expected: str | None) -> StoreMoved:
    """Return the error that tells a publisher that another one was first."""
    made_from = f"this was made from {expected}" if expected else "this was not made from it"
    return StoreMoved(
        f"{url} has {found} in use, but {made_from}: publishing would lose what was changed in between; "
        "get it by `lookalike index pull`, make the change again, push"
    )


def origin_of(index_dir: Path, url: str) -> str | None:
    """Return the version that was in use at `url` when `index_dir` was last pulled from there or pushed."""
    try:
        kept = json.loads((index_dir / _ORIGIN).read_bytes())
    except (OSError, ValueError):
        return None
    return kept.get("version") if isinstance(kept, dict) and kept.get("url") == url else None


def keep_origin(index_dir: Path, url: str, version: str) -> None:
    """Remember that `index_dir` holds what the store at `url` has in use."""
    replace_file(index_dir / _ORIGIN, json.dumps({"url": url, "version": version}).encode())


def write_manifest(version_dir: Path, data: bytes) -> Manifest:
    """Write a manifest into `version_dir`, which bears the version's name; return it checked.

    Raises:
        IndexDamaged: it was altered, or names files outside of its folder.
    """
    version_dir.mkdir(parents=True, exist_ok=True)
    replace_file(version_dir / MANIFEST, data)
    manifest = read_manifest(version_dir)
    if strange := [name for name in manifest.files if name != Path(name).name or name in ("", ".", "..", MANIFEST)]:
        raise IndexDamaged(f"index version {manifest.version}: the manifest names a strange file: {strange[0]!r}")
    return manifest


def object_name(version: str, file: str) -> str:
    """Return the name of a version's file in a store."""
    return f"{VERSIONS}/{version}/{file}"


def _content(version: str) -> bytes:
    return f"{version}\n".encode()


def _is_version(name: str) -> bool:
    try:
        return version_in(name.encode(), name) == name
    except IndexDamaged:
        return False
