"""The search router behind rows: a persistent asyncio loop in a thread, so that one batch's searches overlap."""

import asyncio
import dataclasses
import json
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import uvloop

from lookalike import rows as wire
from lookalike.batching import asked_ms_in, golden_image
from lookalike.clients import HttpModelClient, LocalModelClient, ModelClient
from lookalike.config import MilvusSettings, ModelSettings, RouterSettings
from lookalike.delivery.follow import read_status
from lookalike.errors import IndexUnavailable, InvalidOption, LookalikeError, UnknownPath
from lookalike.index.live import LiveIndex
from lookalike.index.protocol import LiveVectorIndex
from lookalike.index.snapshot import check_kind
from lookalike.pipeline import SearchPipeline
from lookalike.rows import Reply, Row
from lookalike.schemas import SearchRequest
from lookalike.stage_timer import Deadline, StageTimer

logger = logging.getLogger(__name__)
T = TypeVar("T")
_LOOKUP_SHARE = 0.9


class LoopThread:
    """An event loop that lives as long as the worker: connections stay pooled between batches."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="search-loop", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """Stop the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SearchService:
    """Answers `POST /predictions/search` and its `healthz` and `info` paths."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self._loop = LoopThread()
        self._executor = ThreadPoolExecutor(settings.threads, thread_name_prefix="search")
        self._models = models = self._loop.run(self._connect())
        self._index = _live_index(settings, lambda: models.fingerprint)
        self._pipeline = SearchPipeline(self._models, self._index.current, settings, self._executor, self._index.of)

    async def _connect(self) -> ModelClient:
        if self._settings.models == "in_process":
            networks = ModelSettings.load()
            networks.threads = self._settings.model_threads or networks.threads
            return LocalModelClient.of_archives(self._settings, networks, self._executor)
        return HttpModelClient(self._settings)

    def close(self) -> None:
        """Close the connections, the index watcher and the threads."""
        self._loop.run(self._models.close())
        self._loop.close()
        self._index.close()
        self._executor.shutdown()

    def respond(self, rows: Sequence[Row]) -> list[Reply]:
        """Return one reply a row, in order; the rows are searched side by side; never raises."""
        return self._loop.run(self._respond_all(rows))

    async def _respond_all(self, rows: Sequence[Row]) -> list[Reply]:
        return list(await asyncio.gather(*(self._respond(row) for row in rows)))

    async def _respond(self, row: Row) -> Reply:
        reply = await self._reply_to(row)
        return dataclasses.replace(reply, circuits=self._models.circuits())

    async def _reply_to(self, row: Row) -> Reply:
        timer = StageTimer()
        try:
            if row.path:
                return await self._answer_path(row)
            return await self._search(row, timer)
        except LookalikeError as error:
            reply = wire.error_reply(error, row)
        except Exception:
            logger.exception("request %s failed", row.request_id)
            reply = wire.error_reply(LookalikeError("the search failed; the log has the request's id"), row)
        return dataclasses.replace(reply, stages_ms=timer.timings_ms())

    async def _search(self, row: Row, timer: StageTimer) -> Reply:
        deadline = Deadline(_budget_ms(row, self._settings.deadline_ms), row.request_id)
        request = wire.search_request_in(row)
        response = await self._pipeline.search(request, row.request_id, deadline, timer)
        return wire.json_reply(response, stages_ms=response.timings_ms, index=response.index)

    async def _answer_path(self, row: Row) -> Reply:
        if row.path == "healthz":
            return await self._health(row)
        if row.path == "info":
            return wire.json_reply(self._index.current().info)
        raise UnknownPath(f"unknown path {row.path!r}", allowed=["healthz", "info"])

    async def _health(self, row: Row) -> Reply:
        """Ask every part on its own, so that the answer names each that is not ready; then the whole chain."""
        deadline = Deadline(_budget_ms(row, self._settings.deadline_ms), row.request_id)
        checks = {"index": self._index_state(), **await self._models.states(deadline)}
        if all(state == "ok" for state in checks.values()):
            checks["search"] = await self._golden_search(deadline)
        ready = all(state == "ok" for state in checks.values())
        body: dict[str, Any] = {"ready": ready, "checks": checks}
        if checks["index"] == "ok":
            body["index"] = self._index.of(self._models.fingerprint).info.model_dump()
        body["open_indexes"] = self._index.open_versions()
        refused = self._index.problem
        if refused is not None and not isinstance(refused, IndexUnavailable):
            body["refused_index"] = refused.message
        if delivery := self._delivery():
            body["delivery"] = delivery
        return Reply(200 if ready else 503, json.dumps(body).encode())

    def _delivery(self) -> dict[str, Any]:
        """Return how the delivery of the index folder fares; nothing where none was tried, or Milvus serves."""
        faiss = self._settings.index_engine == "faiss"
        return (read_status(self._settings.index_dir) or {}) if faiss else {}

    def _index_state(self) -> str:
        try:
            check_kind(self._index.of(self._models.fingerprint).manifest, self._models.fingerprint)
        except LookalikeError as error:
            cause = self._delivery().get("cause")
            return f"{error.message}; its delivery fails: {cause}" if cause else error.message
        return "ok"

    async def _golden_search(self, deadline: Deadline) -> str:
        try:
            response = await self._pipeline.search(SearchRequest(image=golden_image()), "healthz", deadline)
        except LookalikeError as error:
            return error.message
        return "metadata_creator did not describe the golden image" if response.degraded else "ok"


def _live_index(settings: RouterSettings, served_fingerprint: Callable[[], str | None]) -> LiveVectorIndex:
    if settings.index_engine == "milvus":
        from lookalike.index.milvus.live import LiveMilvus  # it needs an extra

        milvus = MilvusSettings.load()
        # A server that hangs is told as such before the search's own time for the look-up ends.
        limit_s = min(milvus.timeout_s, _LOOKUP_SHARE * settings.lookup_ms / 1000)
        milvus = milvus.model_copy(update={"timeout_s": limit_s})
        return LiveMilvus(milvus, served_fingerprint, settings.index_poll_s)
    # Model servers may change under a running router; models in its own process do not.
    ahead = settings.models == "http"
    return LiveIndex(settings.index_dir, served_fingerprint, settings.index_poll_s, ahead=ahead)


def _budget_ms(row: Row, limit_ms: float) -> float:
    """Return the client's own deadline where it is shorter than the service's."""
    asked_ms = asked_ms_in(row)
    if asked_ms is None:
        return limit_ms
    if not asked_ms > 0:
        raise InvalidOption(f"{wire.DEADLINE_HEADER} is {asked_ms:g}", allowed="milliseconds above zero")
    return min(asked_ms, limit_ms)
