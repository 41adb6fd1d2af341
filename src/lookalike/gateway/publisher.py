"""Changes of items become index versions: one writer, and what arrives together is published together."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

from lookalike.catalogue import Catalogue, Item
from lookalike.config import IndexSettings
from lookalike.errors import (
    CorruptImage,
    ImageGone,
    IndexUnavailable,
    InvalidRequest,
    LookalikeError,
    Overloaded,
    UnknownItem,
)
from lookalike.gateway.index_view import ImageFiles, IndexView
from lookalike.gateway.metrics import GatewayMetrics
from lookalike.gateway.served_embedder import ServedEmbedder
from lookalike.gateway.settings import GatewaySettings
from lookalike.index.edits import Edit, IndexEditor
from lookalike.index.items import ItemRecord
from lookalike.ingest import IngestOptions
from lookalike.item_schemas import ItemFields


@dataclass(frozen=True)
class Put:
    """An item to add or replace; `content_sha256` names its image among the image files, None keeps the one it has."""

    item_id: str
    fields: ItemFields
    content_sha256: bytes | None


@dataclass(frozen=True)
class Delete:
    """An item to remove."""

    item_id: str


Change = Put | Delete


# `added`, `replaced`, `unchanged` or `removed`; or why the change was refused.
Outcome = str | LookalikeError


class Published(NamedTuple):
    """What became of changes, in their order; the version that has them."""

    outcomes: list[Outcome]
    version: str | None


class _Waiting(NamedTuple):
    changes: Sequence[Change]
    done: "asyncio.Future[Published]"


class Publisher:
    """Takes changes and publishes them in order; make it inside of the event loop that it is used in."""

    def __init__(
        self,
        settings: GatewaySettings,
        view: IndexView,
        images: ImageFiles,
        executor: Executor,
        metrics: GatewayMetrics,
    ) -> None:
        self._settings, self._view, self._images = settings, view, images
        self._executor, self._metrics = executor, metrics
        options = IngestOptions(duplicates="keep", threads=settings.threads, limits=settings.limits)
        self._editor = IndexEditor(settings.index_dir, IndexSettings.load(), options)
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._waiting = 0
        self._held: _Waiting | None = None
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; what was handed in before is still published."""
        await self._queue.join()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def publish(self, changes: Sequence[Change]) -> Published:
        """Return when the changes are published.

        Raises:
            Overloaded: too many changes wait.
            IndexBusy: another process writes the index.
            LookalikeError: why none of the changes that were published together could be.
        """
        if self._waiting + len(changes) > self._settings.max_waiting_edits:
            raise Overloaded(f"{self._waiting} changes wait to be published")
        done: asyncio.Future[Published] = asyncio.get_running_loop().create_future()
        self._waiting += len(changes)
        self._queue.put_nowait(_Waiting(changes, done))
        try:
            # A client that hangs up does not take its change back: others are published with it.
            return await asyncio.shield(done)
        finally:
            self._waiting -= len(changes)

    async def _run(self) -> None:
        while True:
            together = [self._held or await self._queue.get()]
            self._held = None
            await asyncio.sleep(self._settings.edit_window_ms / 1000)
            self._gather(together)
            await self._publish_together(together)
            for _ in together:
                self._queue.task_done()

    def _gather(self, together: list[_Waiting]) -> None:
        """Add what has arrived, up to the first that changes an item a second time: the order of changes counts."""
        ids = {change.item_id for change in together[0].changes}
        while not self._queue.empty():
            waiting = self._queue.get_nowait()
            more = {change.item_id for change in waiting.changes}
            if ids & more or len(ids) + len(more) > self._settings.max_batch_items:
                self._held = waiting
                return
            ids |= more
            together.append(waiting)

    async def _publish_together(self, together: list[_Waiting]) -> None:
        changes = [change for waiting in together for change in waiting.changes]
        try:
            loop = asyncio.get_running_loop()
            published = await loop.run_in_executor(self._executor, self._publish, changes)
        except Exception as error:
            for waiting in together:
                if not waiting.done.cancelled():
                    waiting.done.set_exception(error)
            return
        outcomes = iter(published.outcomes)
        for waiting in together:
            own = [next(outcomes) for _ in waiting.changes]
            if not waiting.done.cancelled():
                waiting.done.set_result(Published(own, published.version))

    def _publish(self, changes: Sequence[Change]) -> Published:
        """Publish the changes, in the writer's thread."""
        before = {change.item_id: self._record(change.item_id) for change in changes}
        outcomes: dict[str, Outcome] = {}
        puts = [change for change in changes if isinstance(change, Put)]
        edits = [self._add(puts, before, outcomes)]
        edits.append(
            self._remove([change.item_id for change in changes if isinstance(change, Delete)], before, outcomes)
        )
        done = [edit for edit in edits if edit is not None]
        self._metrics.published.inc(sum(edit.published for edit in done))
        replaced = {record.content_sha256 for record in before.values() if record is not None}
        self._images.remove_unused(self._view.layout, replaced)
        version = done[-1].manifest.version if done else None
        return Published([outcomes[change.item_id] for change in changes], version)

    def _record(self, item_id: str) -> ItemRecord | None:
        try:
            return self._view.current().items.record(item_id)
        except IndexUnavailable:
            return None

    def _add(
        self, puts: Sequence[Put], before: dict[str, ItemRecord | None], outcomes: dict[str, Outcome]
    ) -> Edit | None:
        items = {}
        for put in puts:
            try:
                items[put.item_id] = self._item(put, before[put.item_id])
            except LookalikeError as error:
                outcomes[put.item_id] = error
        if not items:
            return None
        edit = self._ingest(Catalogue(self._images.folder, list(items.values())))
        if edit.report is not None:
            edit.report.unlink(missing_ok=True)  # the client is told; a file for each change would pile up
        unreadable = {problem.item_id: problem for problem in edit.problems if problem.kind == "unreadable"}
        for item_id in items:
            if (problem := unreadable.get(item_id)) is not None:
                outcomes[item_id] = CorruptImage(f"the image cannot be embedded: {problem.reason}")
                continue
            self._metrics.edits.labels("put").inc()
            old, new = before[item_id], self._record(item_id)
            outcomes[item_id] = "added" if old is None else "unchanged" if old == new else "replaced"
        return edit

    def _item(self, put: Put, before: ItemRecord | None) -> Item:
        if put.content_sha256 is not None:
            path = self._images.path(put.content_sha256)
        elif before is None:
            raise InvalidRequest("a new item needs an image", allowed=["image"])
        elif not os.path.isfile(before.path):
            raise ImageGone(f"the image of item {put.item_id[:200]!r} is not there any more: send one")
        else:
            path = self._images.folder / before.path  # which is absolute
        fields = put.fields
        return Item(put.item_id, path, fields.title, fields.url, dict(fields.attributes))

    def _ingest(self, catalogue: Catalogue) -> Edit:
        name = None
        published = self._view.layout.current_version() is not None
        if published:
            name = self._view.current().manifest.embedder
        with ServedEmbedder(self._settings.upstream_url, name) as embedder:
            if published:
                return self._editor.add(catalogue, embedder)
            return self._editor.build(catalogue, embedder)

    def _remove(
        self, item_ids: Sequence[str], before: dict[str, ItemRecord | None], outcomes: dict[str, Outcome]
    ) -> Edit | None:
        there = [item_id for item_id in item_ids if before[item_id] is not None]
        unknown = UnknownItem("the index has no such item")
        outcomes |= {item_id: unknown for item_id in item_ids if before[item_id] is None}
        if not there:
            return None
        edit = self._editor.remove(there)
        for item_id in there:
            outcomes[item_id] = "removed"
            self._metrics.edits.labels("delete").inc()
        return edit
