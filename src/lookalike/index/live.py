"""The index that a running server uses: new versions are noticed, checked and swapped in without a failed search."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from lookalike.config import IndexSettings
from lookalike.errors import IndexDamaged, IndexUnavailable, LookalikeError
from lookalike.index.faiss_index import FaissIndex
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import read_manifest
from lookalike.index.snapshot import check_kind, open_snapshot
from lookalike.index.verify import verify_snapshot

log = logging.getLogger(__name__)
_RETRY_S = 15.0


class LiveIndex:
    """Holds the published version of an index folder and follows CURRENT in a background thread.

    The first version is opened at once, its contents unread, so that a restart is quick. A version that follows is
    read and checked wholly beside the one in use: it is warm when it takes over, and a bad one never does.

    `served_fingerprint` tells whose embeddings will be searched for, None until that is known. A version of another
    embedder is refused, and looked at again when another embedder is served.
    """

    def __init__(
        self,
        index_dir: Path,
        served_fingerprint: Callable[[], str | None] = lambda: None,
        poll_s: float = 1.0,
        settings: IndexSettings | None = None,
    ) -> None:
        self._layout = IndexLayout(index_dir)
        self._served_fingerprint = served_fingerprint
        self._settings = settings or IndexSettings.load()
        self._index: FaissIndex | None = None
        self._problem: LookalikeError | None = None
        self._seen: tuple[tuple[int, int, int] | None, str | None] | None = None  # None: the first look counts
        self._retry_s = 0.0
        self._refreshing = threading.Lock()
        self._stopped = threading.Event()
        self.refresh()
        self._thread = threading.Thread(target=self._follow, args=(poll_s,), name="live-index", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> LookalikeError | None:
        """What is wrong with the version that CURRENT names; None when it is in use and fits the embedder."""
        return self._problem

    def current(self) -> FaissIndex:
        """Return the version in use; who holds it may go on searching it after a swap.

        Raises:
            IndexUnavailable, IndexMismatch, IndexDamaged: there is none, with what is wrong.
        """
        index, problem = self._index, self._problem
        if index is not None:
            return index
        if problem is None:
            raise IndexUnavailable(f"no index version is loaded from {self._layout.index_dir}")
        raise type(problem)(problem.message, problem.allowed)

    def refresh(self) -> None:
        """Look at CURRENT now and swap when it names another, good version; never raises for a bad one."""
        with self._refreshing:
            served = self._served_fingerprint()
            seen = self._stat(), served
            if seen == self._seen and (self._problem is None or time.monotonic() < self._retry_s):
                return
            self._seen = seen
            try:
                self._swap(served)
                self._problem = None
            except LookalikeError as error:
                self._refuse(error)
            except Exception as error:
                # Whatever a broken file provokes in a library, the version in use goes on.
                self._refuse(IndexDamaged(f"the index cannot be opened: {error!r}"))

    def close(self) -> None:
        """Stop following CURRENT."""
        self._stopped.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self, poll_s: float) -> None:
        while not self._stopped.wait(poll_s):
            self.refresh()

    def _stat(self) -> tuple[int, int, int] | None:
        """Return what changes whenever CURRENT is replaced."""
        try:
            found = self._layout.pointer.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _swap(self, served: str | None) -> None:
        version_dir = self._layout.published_dir()
        check_kind(read_manifest(version_dir), served)  # first: what is refused is looked at again and again
        before = self._index
        if before is not None and before.info.version == version_dir.name:
            return
        opened = open_snapshot if before is None else verify_snapshot
        index = FaissIndex(opened(version_dir), self._settings)
        self._index = index
        log.info(
            "index version %s is in use: %d items, %s%s",
            index.info.version,
            index.info.count,
            index.info.kind,
            "" if before is None else f", after {before.info.version}",
        )

    def _refuse(self, error: LookalikeError) -> None:
        # A replica may get CURRENT before the files that it names: a refused version is looked at again.
        self._retry_s = time.monotonic() + _RETRY_S
        if self._problem is None or self._problem.message != error.message:
            in_use = "none" if self._index is None else self._index.info.version
            log.error("index refused (%s): %s; in use: %s", error.code, error.message, in_use)
        self._problem = error
