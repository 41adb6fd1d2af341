"""Files that are wholly there or not at all, also after a power cut; a full or read-only disk told in plain words."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lookalike.errors import NotStored

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EROFS, errno.EACCES, errno.EPERM}
_BLOCK_BYTES = 1 << 20


def fsync_path(path: Path) -> None:
    """Force a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` as `path` in one step: a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        temporary.write_bytes(data)
        fsync_path(temporary)
        os.replace(temporary, path)
    except BaseException:
        # On a full disk the part that was written takes what little there is.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def told_when_not_stored(folder: Path) -> Iterator[None]:
    """Turn the failure of a write for lack of space or of rights into an error that names `folder`.

    Raises:
        NotStored: the disk, the quota or the allowed file size is used up, or nothing may be written there.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL | _REFUSED:
            raise
        what = f"no space left to write under {folder}" if error.errno in _FULL else f"{folder} cannot be written"
        raise NotStored(f"{what} ({error.strerror}); the published version stays in use") from error
