"""What every engine's running index shares: a thread that looks for what is published, and what is open meanwhile."""

import logging
import threading
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Generic, Self, TypeVar

from lookalike.errors import IndexDamaged, IndexUnavailable, LookalikeError
from lookalike.index.protocol import VectorIndex

log = logging.getLogger(__name__)
I = TypeVar("I", bound=VectorIndex)  # noqa: E741  # an index


class FollowedIndex(ABC, Generic[I]):
    """The versions of an index that can answer (a `LiveVectorIndex`); who holds one may search it after a swap."""

    def __init__(self, named: str, nothing: str) -> None:
        """`named` is what log lines and errors call it; `nothing` says that no version was ever open."""
        self._named, self._nothing = named, nothing
        self._index: I | None = None
        self._open: dict[str, I] = {}  # by the embedder's fingerprint: what was published last, and what before it
        self._problem: LookalikeError | None = None
        self._refreshing = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def problem(self) -> LookalikeError | None:
        """What is wrong with what was published last; None when it answers."""
        return self._problem

    def current(self) -> I:
        """Return the version in use.

        Raises:
            IndexUnavailable, IndexMismatch, IndexDamaged: there is none, with what is wrong.
        """
        index, problem = self._index, self._problem
        if index is not None:
            return index
        if problem is None:
            raise IndexUnavailable(self._nothing)
        raise type(problem)(problem.message, problem.allowed, problem.retry_after_s)

    def of(self, fingerprint: str | None) -> I:
        """Return the version of this embedder where one is open, else what `current` does; the caller compares.

        Raises:
            IndexUnavailable, IndexMismatch, IndexDamaged: there is none at all, with what is wrong.
        """
        index = None if fingerprint is None else self._open.get(fingerprint)
        return self.current() if index is None else index

    def open_versions(self) -> dict[str, str]:
        """Return the versions that can answer, by their embedders' fingerprints."""
        return {fingerprint: index.info.version for fingerprint, index in self._open.items()}

    def refresh(self) -> None:
        """Look now; never raises: what is open goes on when something is wrong."""
        with self._refreshing:
            try:
                self._look()
            except LookalikeError as error:
                self._refuse(error)
            except Exception as error:
                # Whatever a broken file or a server's answer provokes in a library, the version in use goes on.
                self._refuse(IndexDamaged(f"the {self._named} cannot be opened: {error!r}"))

    def close(self) -> None:
        """Stop looking."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, poll_s: float) -> None:
        """Look at once, and then at each multiple of `poll_s` in a thread; to be called when the object is ready.

        All processes look at the same moments, so that their answers change together when an index is published.
        """
        self.refresh()
        self._thread = threading.Thread(target=self._follow, args=(poll_s,), name=f"live {self._named}", daemon=True)
        self._thread.start()

    def _follow(self, poll_s: float) -> None:
        while not self._stopped.wait(until_next(poll_s, time.time())):
            self.refresh()

    @abstractmethod
    def _look(self) -> None:
        """Open what is published, choose what answers, and set `_problem` to None when nothing is wrong.

        Raises:
            LookalikeError: what was published last is not to be had, or not for the embedder that is served.
        """

    def _refuse(self, error: LookalikeError) -> None:
        before, self._problem = self._problem, error
        if self.problem is not None and (before is None or before.message != error.message):
            in_use = "none" if self._index is None else self._index.info.version
            log.error("%s refused (%s): %s; in use: %s", self._named, error.code, error.message, in_use)


def until_next(poll_s: float, now_s: float) -> float:
    """Return the seconds from `now_s` to the next multiple of `poll_s`."""
    return poll_s - now_s % poll_s
