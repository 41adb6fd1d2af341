"""The catalogue in Milvus that a running server uses: a switch of its alias is noticed without a failed search."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from lookalike.config import IndexSettings, MilvusSettings
from lookalike.errors import IndexDamaged, IndexUnavailable, LookalikeError
from lookalike.index.milvus.catalogue import MilvusCatalogue
from lookalike.index.milvus.connection import MilvusConnection
from lookalike.index.milvus.index import MilvusIndex
from lookalike.index.snapshot import check_kind

log = logging.getLogger(__name__)


class LiveMilvus:
    """Follows a catalogue's aliases in a background thread, as `LiveIndex` does the pointers of a folder.

    The collection of the embedder before stays open beside the one that serves, so that each embedder's searches are
    answered from its own. An outage of the server ends with the server's: what is open is searched again at once.
    """

    def __init__(
        self,
        settings: MilvusSettings,
        served_fingerprint: Callable[[], str | None] = lambda: None,
        poll_s: float = 1.0,
        index_settings: IndexSettings | None = None,
    ) -> None:
        self._settings, self._served_fingerprint = settings, served_fingerprint
        self._index_settings = index_settings or IndexSettings.load()
        self._catalogue: MilvusCatalogue | None = None
        self._index: MilvusIndex | None = None
        self._open: dict[str, MilvusIndex] = {}  # by the embedder's fingerprint: of the alias, of that before
        self._problem: LookalikeError | None = None
        self._refreshing = threading.Lock()
        self._stopped = threading.Event()
        self.refresh()
        self._thread = threading.Thread(target=self._follow, args=(poll_s,), name="live-milvus", daemon=True)
        self._thread.start()

    @property
    def problem(self) -> LookalikeError | None:
        """What is wrong with the server or with the collection that the alias leads to."""
        return self._problem

    def current(self) -> MilvusIndex:
        """Return the collection in use; who holds it may go on searching it after a switch.

        Raises:
            IndexUnavailable, IndexMismatch, IndexDamaged: there is none, with what is wrong.
        """
        index, problem = self._index, self._problem
        if index is not None:
            return index
        if problem is None:
            raise IndexUnavailable(f"no collection of {self._settings.catalogue} is open")
        raise type(problem)(problem.message, problem.allowed, problem.retry_after_s)

    def of(self, fingerprint: str | None) -> MilvusIndex:
        """Return the collection of this embedder where one is open, else what `current` does; the caller compares.

        Raises:
            IndexUnavailable, IndexMismatch, IndexDamaged: there is none at all, with what is wrong.
        """
        index = None if fingerprint is None else self._open.get(fingerprint)
        return self.current() if index is None else index

    def open_versions(self) -> dict[str, str]:
        """Return the collections that can answer, by their embedders' fingerprints."""
        return {fingerprint: index.info.version for fingerprint, index in self._open.items()}

    def refresh(self) -> None:
        """Look at the aliases and counts now; never raises: what is open goes on when something is wrong."""
        with self._refreshing:
            try:
                self._look()
            except LookalikeError as error:
                self._tell(error)
            except Exception as error:
                # Whatever a server's answer provokes in a library, the collection in use goes on.
                self._tell(IndexDamaged(f"the catalogue in Milvus cannot be opened: {error!r}"))
            else:
                self._problem = None

    def close(self) -> None:
        """Stop following the aliases and close the connection."""
        self._stopped.set()
        self._thread.join()
        if self._catalogue is not None:
            self._catalogue.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self, poll_s: float) -> None:
        while not self._stopped.wait(poll_s):
            self.refresh()

    def _look(self) -> None:
        if self._catalogue is None:
            self._catalogue = MilvusCatalogue(MilvusConnection(self._settings), self._settings.catalogue)
        served = self._served_fingerprint()
        current, previous = self._opened(self._catalogue.serving()), self._opened_previous(self._catalogue)
        opened = {index.manifest.fingerprint: index for index in (previous, current) if index is not None}
        self._open = opened
        if served is not None and served not in opened:
            check_kind(current.manifest, served)
        self._index = current if served is None else opened[served]

    def _opened_previous(self, catalogue: MilvusCatalogue) -> MilvusIndex | None:
        """Return the collection of the embedder before; whatever is wrong with it, the one that serves goes on."""
        try:
            name = catalogue.previous()
            return None if name is None else self._opened(name)
        except LookalikeError as error:
            log.warning("the collection of the embedder before is not open (%s): %s", error.code, error.message)
            return None

    def _opened(self, name: str) -> MilvusIndex:
        assert self._catalogue is not None
        known = [index for index in self._open.values() if index.info.version == name]
        if known and not isinstance(self._problem, IndexUnavailable):  # after an outage it may have to be loaded anew
            known[0].refresh()
            return known[0]
        index = MilvusIndex(self._catalogue, name, self._index_settings)
        info = index.info
        log.info("collection %s is open: %d items, %s", info.version, info.count, info.kind)
        return index

    def _tell(self, error: LookalikeError) -> None:
        before, self._problem = self._problem, error
        if before is None or before.message != error.message:
            in_use = "none" if self._index is None else self._index.info.version
            log.error("catalogue in Milvus refused (%s): %s; in use: %s", error.code, error.message, in_use)
