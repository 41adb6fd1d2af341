"""One published version as it lies on disk: opened by memory map, checked quickly here and wholly by `verify`."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import IndexDamaged, IndexMismatch
from lookalike.index.durable import sha256_of
from lookalike.index.items import Items
from lookalike.index.manifest import DTYPE, ITEMS, METRIC, STRUCTURE_FILES, VECTORS, Manifest, read_manifest


@dataclass(frozen=True)
class Snapshot:
    """A version's manifest, its embeddings `(count, dim)` float32 L2-normalised, its items in the same rows."""

    version_dir: Path
    manifest: Manifest
    vectors: NDArray[np.float32]
    items: Items


def open_snapshot(version_dir: Path, expect_fingerprint: str | None = None) -> Snapshot:
    """Map the version in `version_dir`: sizes, shapes, the manifest and the items are checked, embeddings are not read.

    Raises:
        IndexDamaged: a file is missing, cut or of a wrong shape, the items were altered, or the format is newer than
            this program.
        IndexMismatch: the index was built by another embedder than `expect_fingerprint`, or for another metric.
    """
    manifest = read_manifest(version_dir)
    check_kind(manifest, expect_fingerprint)
    check_sizes(version_dir, manifest)
    vectors = _open_vectors(version_dir / VECTORS, manifest)
    check_content(version_dir, manifest, ITEMS)
    items = Items.open(version_dir / ITEMS)
    if len(items) != manifest.count:
        raise IndexDamaged(
            f"index version {manifest.version}: {ITEMS} holds {len(items)} items; the manifest says {manifest.count}"
        )
    return Snapshot(version_dir, manifest, vectors, items)


def check_kind(manifest: Manifest, expect_fingerprint: str | None = None) -> None:
    """Check that the version can be searched with the embeddings of `expect_fingerprint`; None: of any embedder.

    Raises:
        IndexMismatch: it was built by another embedder, or for another metric.
    """
    if (manifest.metric, manifest.dtype) != (METRIC, DTYPE):
        raise IndexMismatch(
            f"index version {manifest.version} was built for {manifest.metric} on {manifest.dtype}; "
            f"this program searches by {METRIC} on {DTYPE}"
        )
    if expect_fingerprint is not None and manifest.fingerprint != expect_fingerprint:
        raise IndexMismatch(
            f"index version {manifest.version} was built with embedder {manifest.embedder} "
            f"{manifest.fingerprint}; the embedder in use is {expect_fingerprint}"
        )


def check_sizes(version_dir: Path, manifest: Manifest) -> None:
    """Check that every file of the version is there in its full size.

    Raises:
        IndexDamaged: naming the file.
    """
    needed = {VECTORS, ITEMS} | ({STRUCTURE_FILES[manifest.kind]} if manifest.kind in STRUCTURE_FILES else set())
    if unlisted := needed - manifest.files.keys():
        raise IndexDamaged(f"index version {manifest.version}: the manifest lacks {', '.join(sorted(unlisted))}")
    for name, entry in manifest.files.items():
        path = version_dir / name
        if not path.is_file():
            raise IndexDamaged(f"index version {manifest.version}: {name} is missing")
        found = path.stat().st_size
        if found != entry.bytes:
            raise IndexDamaged(f"index version {manifest.version}: {name} has {found} bytes instead of {entry.bytes}")


def check_content(version_dir: Path, manifest: Manifest, name: str) -> None:
    """Check a file's sha256 before a library parses it, which a damaged one may bring down with the whole process.

    Raises:
        IndexDamaged: it was altered.
    """
    path = version_dir / name
    found = path.stat()
    if _sha256_of(str(path), found.st_ino, found.st_size, found.st_mtime_ns) != manifest.files[name].sha256:
        raise IndexDamaged(f"index version {manifest.version}: {name} was altered: its sha256 is not the manifest's")


def check_all_content(version_dir: Path, manifest: Manifest) -> None:
    """Check every file, read anew whatever is known of it; raises IndexDamaged."""
    _sha256_of.cache_clear()
    for name in manifest.files:
        check_content(version_dir, manifest, name)


@lru_cache(maxsize=64)
def _sha256_of(path: str, inode: int, size: int, changed_ns: int) -> str:
    """Return the sha256 of a file, which is read once as long as it stays as it is."""
    return sha256_of(Path(path))


def _open_vectors(path: Path, manifest: Manifest) -> NDArray[np.float32]:
    try:
        # NumPy cannot map an array of no bytes.
        mapped = np.load(path, mmap_mode="r" if manifest.count else None, allow_pickle=False)
    except Exception as error:  # NumPy parses a damaged header as Python, and raises whatever that stumbles over
        raise IndexDamaged(f"index version {manifest.version}: {path.name} cannot be read: {error}") from error
    wanted = (manifest.count, manifest.dim)
    if mapped.shape != wanted or mapped.dtype != np.float32 or not mapped.flags.c_contiguous:
        raise IndexDamaged(
            f"index version {manifest.version}: {path.name} is {mapped.dtype} {mapped.shape}; "
            f"the manifest says float32 {wanted}"
        )
    return np.asarray(mapped)
