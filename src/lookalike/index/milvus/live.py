"""The catalogue in Milvus that a running server uses: a switch of its alias is noticed without a failed search."""

import logging
from collections.abc import Callable

from lookalike.config import IndexSettings, MilvusSettings
from lookalike.errors import IndexUnavailable, LookalikeError
from lookalike.index.followed import FollowedIndex
from lookalike.index.milvus.catalogue import MilvusCatalogue
from lookalike.index.milvus.connection import MilvusConnection
from lookalike.index.milvus.index import MilvusIndex
from lookalike.index.snapshot import check_kind

log = logging.getLogger(__name__)


class LiveMilvus(FollowedIndex[MilvusIndex]):
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
        super().__init__("catalogue in Milvus", f"no collection of {settings.catalogue} is open")
        self._settings, self._served_fingerprint = settings, served_fingerprint
        self._index_settings = index_settings or IndexSettings.load()
        self._catalogue: MilvusCatalogue | None = None
        self._start(poll_s)

    def close(self) -> None:
        """Stop following the aliases and close the connection."""
        super().close()
        if self._catalogue is not None:
            self._catalogue.connection.close()

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
        self._problem = None

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
