"""The index that a running server uses: new versions are noticed, checked and swapped in without a failed search."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

from lookalike.config import IndexSettings
from lookalike.errors import IndexMismatch, LookalikeError
from lookalike.index.faiss_index import FaissIndex
from lookalike.index.followed import FollowedIndex
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import read_manifest
from lookalike.index.snapshot import check_kind, open_snapshot
from lookalike.index.verify import verify_snapshot

log = logging.getLogger(__name__)
_RETRY_S = 15.0


class LiveIndex(FollowedIndex[FaissIndex]):
    """Holds the published versions of an index folder and follows CURRENT and PREVIOUS in a background thread.

    The first versions are opened at once, their embeddings unread, so that a restart is quick. A version that follows
    is read and checked wholly beside those in use: it is warm when it takes over, and a bad one never does.

    `served_fingerprint` tells whose embeddings will be searched for, None until that is known. A version of another
    embedder never answers for it. With `ahead` such a version is opened all the same, so that it answers from the
    moment in which its embedder does; without, for an embedder that never changes, its memory is saved.
    """

    def __init__(
        self,
        index_dir: Path,
        served_fingerprint: Callable[[], str | None] = lambda: None,
        poll_s: float = 1.0,
        settings: IndexSettings | None = None,
        ahead: bool = True,
    ) -> None:
        super().__init__("index", f"no index version is loaded from {index_dir}")
        self._layout = IndexLayout(index_dir)
        self._served_fingerprint = served_fingerprint
        self._settings, self._ahead = settings or IndexSettings.load(), ahead
        self._previous_problem: LookalikeError | None = None
        self._served: str | None = None
        self._seen: object = None  # what the last look saw; None: the first look counts
        self._retry_s = 0.0
        self._start(poll_s)

    @property
    def problem(self) -> LookalikeError | None:
        """What is wrong with the version that CURRENT names; None when it answers, or waits beside one that does."""
        return None if self._waits() else self._problem

    def _waits(self) -> bool:
        """Tell whether CURRENT's version is open for the next embedder while that of the one served answers."""
        answers = self._index is not None and self._index.manifest.fingerprint == self._served
        return isinstance(self._problem, IndexMismatch) and self._ahead and answers

    def _look(self) -> None:
        served = self._served_fingerprint()
        seen = _stat(self._layout.pointer), _stat(self._layout.previous_pointer), served
        good = self._problem is None and self._previous_problem is None
        if seen == self._seen and (good or time.monotonic() < self._retry_s):
            return
        self._seen = seen
        self._swap(served)
        self._problem = None

    def _swap(self, served: str | None) -> None:
        """Open what the pointers name and choose the version that answers.

        Raises:
            LookalikeError: CURRENT's version is not to be had, or not for the embedder that is served.
        """
        before = self._open
        opened: dict[str, FaissIndex] = {}
        current, problem = self._opened_current(served)
        for index in (self._opened_previous(served), current):
            if index is not None:
                opened[index.manifest.fingerprint] = index
        failed = current is None or self._previous_problem is not None
        for fingerprint, index in before.items():
            # What nothing takes the place of goes on.
            if failed or fingerprint == served:
                opened.setdefault(fingerprint, index)
        self._open = opened
        if served is None:
            self._index = current or self._index
        else:
            self._index = opened.get(served, self._index)
        self._served = served
        self._tell(before)
        if problem is not None:
            raise problem

    def _opened_current(self, served: str | None) -> tuple[FaissIndex | None, LookalikeError | None]:
        """Return the published version where it is to be opened, and what keeps it from answering now."""
        try:
            version_dir = self._layout.published_dir()
            manifest = read_manifest(version_dir)
            check_kind(manifest)
        except LookalikeError as error:
            return None, error
        try:
            check_kind(manifest, served)
            return self._opened(version_dir), None
        except IndexMismatch as mismatch:
            return (self._opened(version_dir) if self._ahead else None), mismatch
        except LookalikeError as error:
            return None, error

    def _opened_previous(self, served: str | None) -> FaissIndex | None:
        """Return the version of the embedder before; whatever is wrong with it, that of CURRENT goes on."""
        try:
            version = self._layout.previous_version()
            index = None if version is None else self._fitting(self._layout.version_dir(version), served)
        except LookalikeError as error:
            if self._previous_problem is None or self._previous_problem.message != error.message:
                log.error("the index of the embedder before is refused (%s): %s", error.code, error.message)
            self._previous_problem, self._retry_s = error, time.monotonic() + _RETRY_S
            return None
        self._previous_problem = None
        return index

    def _fitting(self, version_dir: Path, served: str | None) -> FaissIndex | None:
        manifest = read_manifest(version_dir)
        check_kind(manifest)
        return self._opened(version_dir) if self._ahead or manifest.fingerprint == served else None

    def _opened(self, version_dir: Path) -> FaissIndex:
        for index in self._open.values():
            if index.info.version == version_dir.name:
                return index
        read = verify_snapshot if self._open else open_snapshot
        return FaissIndex(read(version_dir), self._settings)

    def _tell(self, before: dict[str, FaissIndex]) -> None:
        known = {index.info.version for index in before.values()}
        for fingerprint, index in self._open.items():
            if index.info.version not in known:
                use = "in use" if index is self._index else f"open for embedder {fingerprint}"
                after = f", after {before[fingerprint].info.version}" if fingerprint in before else ""
                info = index.info
                log.info("index version %s is %s: %d items, %s%s", info.version, use, info.count, info.kind, after)

    def _refuse(self, error: LookalikeError) -> None:
        # A replica may get CURRENT before the files that it names: a refused version is looked at again.
        self._retry_s = time.monotonic() + _RETRY_S
        super()._refuse(error)


def _stat(pointer: Path) -> tuple[int, int, int] | None:
    """Return what changes whenever a pointer is replaced."""
    try:
        found = pointer.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
