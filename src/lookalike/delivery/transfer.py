"""One file's way out of a store: block by block, hashed on the way, whole under its name or not there."""

import hashlib
import os
from pathlib import Path

from lookalike.delivery.store import Store
from lookalike.errors import StoreDamaged, StoreMissing
from lookalike.index.durable import fsync_path, sha256_of, told_when_not_stored
from lookalike.index.manifest import FileEntry

BLOCK_BYTES = 16 << 20
PART_SUFFIX = ".part"


def fetch_file(store: Store, name: str, path: Path, entry: FileEntry) -> bool:
    """Get the object `name` as the file `path`; return whether anything had to be fetched.

    What an earlier attempt got lies in `<path>.part` and is not fetched again.

    Raises:
        StoreMissing: the object is not there.
        StoreDamaged: it has another size or sha256 than `entry`.
        StoreUnreachable: what was got so far stays for the next attempt.
        SetupError: no space is left.
    """
    if path.is_file() and path.stat().st_size == entry.bytes and sha256_of(path) == entry.sha256:
        return False
    check_size(store, name, entry)
    part = path.with_name(path.name + PART_SUFFIX)
    with told_when_not_stored(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists()
        found = _fill(store, name, part, entry)
        if found != entry.sha256 and resumed:
            # The part may be of an object that was replaced since: only a fresh copy tells.
            part.unlink()
            found = _fill(store, name, part, entry)
        if found != entry.sha256:
            part.unlink()
            raise StoreDamaged(
                f"{store.url}/{name} was altered: its sha256 is {found}, the manifest says {entry.sha256}"
            )
        fsync_path(part)
        os.replace(part, path)
        fsync_path(path.parent)
    return True


def send_file(store: Store, path: Path, name: str) -> None:
    """Put the file `path` as the object `name`, unless it is there in its full size.

    Objects of a store are named by their content, or below a name that is: the same name and size is the same object.

    Raises:
        StoreDamaged: the store keeps less of it than was sent.
    """
    size = path.stat().st_size
    if store.size(name) == size:
        return
    store.upload(path, name)
    kept = store.size(name)
    if kept != size:
        raise StoreDamaged(f"{store.url}/{name} has {kept} bytes after {size} were sent")


def check_size(store: Store, name: str, entry: FileEntry) -> None:
    """Check that the object is there in the size of `entry`.

    Raises:
        StoreMissing, StoreDamaged: it is not.
    """
    size = store.size(name)
    if size is None:
        raise StoreMissing(f"{store.url}/{name} is not in the store, though the manifest lists it")
    if size != entry.bytes:
        raise StoreDamaged(f"{store.url}/{name} has {size} bytes, the manifest says {entry.bytes}")


def _fill(store: Store, name: str, part: Path, entry: FileEntry) -> str:
    """Bring `part` to its full size and return its sha256 in hex."""
    digest = hashlib.sha256()
    with part.open("a+b") as file:
        if file.tell() > entry.bytes:
            file.truncate(0)
        file.seek(0)
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
        while (at := file.tell()) < entry.bytes:
            block = store.read_block(name, at, min(at + BLOCK_BYTES, entry.bytes))
            if not block:
                raise StoreDamaged(f"{store.url}/{name} ends after {at} of {entry.bytes} bytes")
            digest.update(block)
            file.write(block)
            file.flush()
    return digest.hexdigest()
