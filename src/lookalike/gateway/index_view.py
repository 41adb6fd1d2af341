"""The index folder as the gateway reads it: the published version, mapped once, and the images sent to /items."""

import os
import threading
from collections import Counter
from pathlib import Path

from lookalike.errors import ImageGone, InvalidOption, UnknownItem
from lookalike.index.durable import replace_file, told_when_not_stored
from lookalike.index.items import ItemRecord
from lookalike.index.layout import IndexLayout
from lookalike.index.snapshot import Snapshot, open_snapshot

IMAGES_DIR = "images"


class IndexView:
    """Reads the published version; safe from several threads."""

    def __init__(self, index_dir: Path) -> None:
        self.layout = IndexLayout(index_dir)
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None

    def current(self) -> Snapshot:
        """Return the published version.

        Raises:
            IndexUnavailable, IndexDamaged, IndexMismatch: there is none that can be read.
        """
        version_dir = self.layout.published_dir()
        with self._lock:
            if self._snapshot is None or self._snapshot.version_dir != version_dir:
                self._snapshot = open_snapshot(version_dir)
            return self._snapshot

    def of_version(self, version: str) -> Snapshot:
        """Return a version that is still on disk; raises InvalidOption."""
        current = self.current()
        if current.manifest.version == version:
            return current
        if version not in self.layout.version_names():
            raise InvalidOption("the version that this cursor reads is gone: begin anew, without a cursor")
        return open_snapshot(self.layout.version_dir(version))

    def item(self, item_id: str) -> ItemRecord:
        """Return one item; raises UnknownItem, and as `current`."""
        record = self.current().items.record(item_id)
        if record is None:
            raise UnknownItem(f"the index has no item {item_id[:200]!r}")
        return record


class ImageFiles:
    """The images that were sent to /items, each under the sha256 of its content: an item_id is never a path."""

    def __init__(self, index_dir: Path) -> None:
        self.folder = index_dir.resolve() / IMAGES_DIR
        self._lock = threading.Lock()
        self._held: Counter[bytes] = Counter()

    def path(self, content_sha256: bytes) -> Path:
        """Return where an image lies, or would lie."""
        return self.folder / content_sha256.hex()

    def hold(self, content_sha256: bytes, data: bytes) -> None:
        """Keep an image, on the disk upon return, and do not let it be removed before `release`; raises NotStored."""
        path = self.path(content_sha256)
        with self._lock:
            if not path.exists():
                with told_when_not_stored(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    replace_file(path, data)
            self._held[content_sha256] += 1

    def release(self, content_sha256: bytes) -> None:
        """End one `hold`: from now on only a version that has the image keeps it."""
        with self._lock:
            self._held[content_sha256] -= 1

    def remove_unused(self, layout: IndexLayout, candidates: set[bytes]) -> None:
        """Delete those of `candidates` that no version on disk has and nobody holds."""
        candidates = {content_sha256 for content_sha256 in candidates if self.path(content_sha256).exists()}
        kept: set[bytes] = set()
        for name in layout.version_names() if candidates else ():
            kept |= open_snapshot(layout.version_dir(name)).items.content_hashes()
        for content_sha256 in candidates - kept:
            with self._lock:
                if self._held[content_sha256] <= 0:
                    del self._held[content_sha256]
                    self.path(content_sha256).unlink(missing_ok=True)


class ReadableFiles:
    """The files that pictures may be made from: those below the catalogue's folders, and the images sent to /items."""

    def __init__(self, roots: tuple[Path, ...], images: ImageFiles) -> None:
        self._roots, self._images = [*(root.resolve() for root in roots), images.folder], images

    def read(self, record: ItemRecord, max_bytes: int) -> bytes:
        """Return the item's image as it lies on the disk, at most one byte more than `max_bytes`.

        Raises:
            ImageGone: the file is not there, is none, or lies elsewhere.
        """
        error = ImageGone(f"the image of item {record.item_id[:200]!r} is not there any more")
        # After a restore on another machine an image that was sent lies there under the same digest.
        for path in (Path(record.path), self._images.path(record.content_sha256)):
            try:
                real = path.resolve(strict=True)
                if any(real.is_relative_to(root) for root in self._roots):
                    return _read_regular(real, max_bytes + 1)
            except (OSError, ValueError):
                continue
        raise error


def _read_regular(path: Path, count: int) -> bytes:
    # No link in the last step, and no wait for whoever writes into a pipe.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(count)
