"""Finished thumbnails on the disk: so many bytes, the one used longest ago goes first."""

import os
import re
import threading
from collections import OrderedDict
from pathlib import Path

_NAME = re.compile(r"[0-9a-f]{64}-\d+\.(webp|jpeg)")


class ThumbnailCache:
    """Files by name; safe from several threads of one process."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = threading.Lock()
        self._sizes = self._found()
        self._total = sum(self._sizes.values())

    def get(self, name: str) -> bytes | None:
        """Return the file, which then counts as used last, or None."""
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
        try:
            data = (self._folder / name).read_bytes()
            os.utime(self._folder / name)  # the order outlives a restart
        except OSError:
            self._forget(name)
            return None
        return data

    def put(self, name: str, data: bytes) -> None:
        """Keep a file, and let others go where there is no room; a disk that is full costs the cache, not the reply."""
        if len(data) > self._max_bytes:
            return
        temporary = self._folder / f".tmp-{threading.get_ident()}-{name}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(self._folder / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            return
        with self._lock:
            self._total += len(data) - self._sizes.pop(name, 0)
            self._sizes[name] = len(data)
            while self._total > self._max_bytes:
                oldest, size = self._sizes.popitem(last=False)
                self._total -= size
                (self._folder / oldest).unlink(missing_ok=True)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._total -= self._sizes.pop(name, 0)

    def _found(self) -> "OrderedDict[str, int]":
        if not self._folder.is_dir():
            return OrderedDict()
        files = [(path.stat(), path.name) for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        return OrderedDict((name, found.st_size) for found, name in sorted(files, key=lambda file: file[0].st_mtime))
