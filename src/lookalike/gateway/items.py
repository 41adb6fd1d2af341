"""`/items`: looking at the catalogue, and changing it."""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from lookalike.errors import Forbidden, InvalidOption, InvalidRequest, LookalikeError, few
from lookalike.gateway.admission import Admission
from lookalike.gateway.body import Body
from lookalike.gateway.context import RequestContext, context_of
from lookalike.gateway.index_view import ImageFiles, IndexView
from lookalike.gateway.item_bodies import decode_base64, read_item, read_json, validated
from lookalike.gateway.publisher import Change, Delete, Outcome, Published, Publisher, Put
from lookalike.gateway.replies import message_reply
from lookalike.gateway.settings import GatewaySettings
from lookalike.gateway.thumbnails import Thumbnails
from lookalike.images import decode_image
from lookalike.index.items import ItemRecord
from lookalike.item_schemas import (
    CatalogueItem,
    ItemBatch,
    ItemEdited,
    ItemFields,
    ItemId,
    ItemOutcome,
    ItemsEdited,
    ItemsPage,
)
from lookalike.options import query_fields
from lookalike.schemas import ErrorBody, Wire

T = TypeVar("T")
_PREFIX, _THUMBNAIL = b"/items/", b"/thumbnail"
_DEFAULT_LIMIT, _MAX_LIMIT = 50, 1000


class _ItemId(Wire):
    item_id: ItemId


class ItemEndpoints:
    """The endpoints under /items."""

    def __init__(
        self,
        settings: GatewaySettings,
        admission: Admission,
        view: IndexView,
        images: ImageFiles,
        thumbnails: Thumbnails,
        publisher: Publisher,
        executor: Executor,
    ) -> None:
        self._settings, self._admission, self._view, self._images = settings, admission, view, images
        self._thumbnails, self._publisher, self._executor = thumbnails, publisher, executor

    async def list_items(self, request: Request) -> Response:
        """Answer `GET /items`."""
        self._enter(request, "/items")
        fields = query_fields(request.scope["query_string"])
        if unknown := sorted(fields.keys() - {"limit", "cursor"}):
            raise InvalidOption(f"unknown options: {few(unknown)}", allowed=["limit", "cursor"])
        return message_reply(await self._in_thread(lambda: self._page(fields)))

    async def get(self, request: Request) -> Response:
        """Answer `GET /items/{item_id}`."""
        self._enter(request, "/items/{item_id}")
        item_id, _ = item_id_in(request.scope)
        return message_reply(item_view(await self._in_thread(lambda: self._view.item(item_id))))

    async def thumbnail(self, request: Request) -> Response:
        """Answer `GET /items/{item_id}/thumbnail`."""
        context, (item_id, _) = context_of(request.scope), item_id_in(request.scope)
        context.route = "/items/{item_id}/thumbnail"
        self._admission.admit(context, "read", thumbnail=True)
        return await self._thumbnails.reply(request, context, item_id)

    async def delete(self, request: Request) -> Response:
        """Answer `DELETE /items/{item_id}`."""
        self._enter(request, "/items/{item_id}")
        require_writable(self._settings)
        item_id, _ = item_id_in(request.scope)
        return _edited(item_id, await self._publisher.publish([Delete(item_id)]))

    async def batch(self, request: Request) -> Response:
        """Answer `POST /items/batch`: every change on its own; those that are refused do not hinder the others."""
        context = self._enter(request, "/items/batch")
        require_writable(self._settings)
        body = Body(request.receive, context, self._settings, self._settings.max_body_bytes)
        batch = read_json(ItemBatch, await body.read())
        item_ids = [*(put.item_id for put in batch.put), *batch.delete]
        if not item_ids or len(item_ids) > self._settings.max_batch_items or len(set(item_ids)) < len(item_ids):
            allowed = f"1 to {self._settings.max_batch_items} changes, none of one item_id twice"
            raise InvalidRequest(f"the batch has {len(item_ids)} changes", allowed)
        return message_reply(await self._publish_batch(batch, item_ids))

    async def _publish_batch(self, batch: ItemBatch, item_ids: list[str]) -> ItemsEdited:
        outcomes: dict[str, Outcome] = {}
        changes: list[Change] = []
        try:
            for put in batch.put:
                try:
                    image = None if put.image is None else decode_base64(put.image)
                    changes.append(await self._checked(put.item_id, put, image))
                except LookalikeError as error:
                    outcomes[put.item_id] = error
            changes += [Delete(item_id) for item_id in batch.delete]
            published = await self._publisher.publish(changes) if changes else Published([], None)
        finally:
            self._release(changes)
        outcomes |= dict(zip([change.item_id for change in changes], published.outcomes, strict=True))
        results = [_wire(item_id, outcomes[item_id]) for item_id in item_ids]
        return ItemsEdited(version=published.version, results=results)

    async def put(self, request: Request) -> Response:
        """Answer `PUT /items/{item_id}`."""
        context = self._enter(request, "/items/{item_id}")
        require_writable(self._settings)
        item_id, _ = item_id_in(request.scope)
        validated(_ItemId, {"item_id": item_id})
        body = Body(request.receive, context, self._settings, self._settings.max_body_bytes)
        told = await read_item(body, context, query_fields(request.scope["query_string"]))
        change = await self._checked(item_id, told.fields, told.image)
        try:
            return _edited(item_id, await self._publisher.publish([change]))
        finally:
            self._release([change])

    async def _checked(self, item_id: str, fields: ItemFields, image: bytes | None) -> Put:
        """Keep the image if it is one; raises RequestError in the words of a search."""
        if image is None:
            return Put(item_id, fields, None)

        def keep() -> bytes:
            decode_image(image, self._settings.limits)
            content_sha256 = hashlib.sha256(image).digest()
            self._images.hold(content_sha256, image)
            return content_sha256

        return Put(item_id, fields, await self._in_thread(keep))

    def _release(self, changes: list[Change] | list[Put]) -> None:
        for change in changes:
            if isinstance(change, Put) and change.content_sha256 is not None:
                self._images.release(change.content_sha256)

    def _page(self, fields: dict[str, str]) -> ItemsPage:
        limit = _limit_in(fields)
        snapshot, row = self._view.current(), 0
        if "cursor" in fields:
            version, row = _read_cursor(fields["cursor"])
            snapshot = self._view.of_version(version)
        records, count = snapshot.items.page(row, limit), snapshot.manifest.count
        following = row + len(records)
        return ItemsPage(
            version=snapshot.manifest.version,
            count=count,
            items=[item_view(record) for record in records],
            next_cursor=_cursor(snapshot.manifest.version, following) if following < count else None,
        )

    def _enter(self, request: Request, route: str) -> RequestContext:
        context = context_of(request.scope)
        context.route = route
        self._admission.admit(context, "admin")
        return context

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)


def require_writable(settings: GatewaySettings) -> None:
    """Accept changes where the index folder can be written, or made; raises Forbidden."""
    folder = settings.index_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        raise Forbidden("the index cannot be changed here: its folder is not writable")


def item_id_in(scope: Scope) -> tuple[str, bool]:
    """Return the item_id of a path under /items/, and whether the path asks for its thumbnail.

    The path is taken as it was sent: an encoded slash belongs to the id, an unencoded one may.

    Raises:
        InvalidRequest: the id is no UTF-8, or empty.
    """
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    encoded = raw.removeprefix(_PREFIX)
    thumbnail = encoded.endswith(_THUMBNAIL)
    try:
        item_id = unquote_to_bytes(encoded.removesuffix(_THUMBNAIL) if thumbnail else encoded).decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("the item_id in the path is no UTF-8") from error
    if not item_id:
        raise InvalidRequest("the path has no item_id", allowed="/items/{item_id}")
    return item_id, thumbnail


def item_view(record: ItemRecord) -> CatalogueItem:
    """Return an item as operators see it."""
    return CatalogueItem(
        item_id=record.item_id,
        title=record.title,
        url=record.url,
        attributes=record.attributes,
        path=record.path,
        content_sha256=record.content_sha256.hex(),
    )


def _edited(item_id: str, published: Published) -> Response:
    """Return the answer to one change; one that was refused is an error like any other."""
    (outcome,) = published.outcomes
    if isinstance(outcome, LookalikeError):
        raise outcome
    reply = ItemEdited.model_validate({"item_id": item_id, "outcome": outcome, "version": published.version})
    return message_reply(reply, 201 if outcome == "added" else 200)


def _wire(item_id: str, outcome: Outcome) -> ItemOutcome:
    if isinstance(outcome, LookalikeError):
        return ItemOutcome(item_id=item_id, outcome="refused", error=ErrorBody.model_validate(outcome.as_dict()))
    return ItemOutcome.model_validate({"item_id": item_id, "outcome": outcome})


def _limit_in(fields: dict[str, str]) -> int:
    text = fields.get("limit", str(_DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= _MAX_LIMIT):
        raise InvalidOption(f"limit is {text[:20]!a}", allowed=f"1 to {_MAX_LIMIT}")
    return int(text)


def _cursor(version: str, row: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([version, row]).encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[str, int]:
    try:
        version, row = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidOption("cursor is none that was given out") from error
    if not isinstance(version, str) or type(row) is not int or row < 0:
        raise InvalidOption("cursor is none that was given out")
    return version, row
