"""Files that are either wholly there or not there, also after a power cut; and a full disk told in plain words."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike.errors import SetupError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
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
    temporary.write_bytes(data)
    fsync_path(temporary)
    os.replace(temporary, path)
    fsync_path(path.parent)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def told_when_full(folder: Path) -> Iterator[None]:
    """Turn the failure of a write for lack of space into a SetupError that names `folder`.

    Raises:
        SetupError: the disk, the quota or the allowed file size is used up.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise SetupError(
            f"no space left to write under {folder} ({error.strerror}); the published version stays in use"
        ) from error
