"""`/index` and `/snapshots`: what is published, kept and taken back."""

import asyncio
import json
import math
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

import anyio
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from lookalike.errors import LengthRequired, LookalikeError
from lookalike.gateway.admission import Admission
from lookalike.gateway.body import Body
from lookalike.gateway.context import RequestContext, context_of
from lookalike.gateway.index_view import IndexView
from lookalike.gateway.item_bodies import read_json, validated
from lookalike.gateway.items import require_writable
from lookalike.gateway.keys import Role
from lookalike.gateway.replies import message_reply
from lookalike.gateway.settings import GatewaySettings
from lookalike.gateway.snapshots import Snapshots
from lookalike.gateway.upstream import Upstream
from lookalike.index.manifest import Manifest
from lookalike.item_schemas import IndexState, SnapshotList, SnapshotRequest
from lookalike.rows import REQUEST_ID_HEADER
from lookalike.schemas import IndexInfo

T = TypeVar("T")
_ROUTER_INFO = "/predictions/search/1.0/info"


class IndexEndpoints:
    """The endpoints /index and /snapshots; `writer` is the one thread that changes the index."""

    def __init__(
        self,
        settings: GatewaySettings,
        admission: Admission,
        view: IndexView,
        snapshots: Snapshots,
        upstream: Upstream,
        writer: Executor,
    ) -> None:
        self._settings, self._admission, self._view = settings, admission, view
        self._snapshots, self._upstream, self._writer = snapshots, upstream, writer

    async def index(self, request: Request) -> Response:
        """Answer `GET /index`."""
        context = self._enter(request, "/index", "read")
        manifest = await asyncio.to_thread(lambda: self._view.current().manifest)
        return message_reply(self._state(manifest, await self._serving(context)))

    async def list_snapshots(self, request: Request) -> Response:
        """Answer `GET /snapshots`."""
        self._enter(request, "/snapshots", "admin")
        return message_reply(SnapshotList(snapshots=await asyncio.to_thread(self._snapshots.list)))

    async def create_snapshot(self, request: Request) -> Response:
        """Answer `POST /snapshots`."""
        context = self._enter(request, "/snapshots", "admin")
        require_writable(self._settings)
        body = Body(request.receive, context, self._settings, 65_536)
        name = read_json(SnapshotRequest, await body.read()).name
        return message_reply(await self._write(lambda: self._snapshots.create(name)), 201)

    async def download(self, request: Request) -> Response:
        """Answer `GET /snapshots/{name}`."""
        self._enter(request, "/snapshots/{name}", "admin")
        path = self._snapshots.file(_name_in(request))
        return FileResponse(path, media_type="application/x-tar", filename=path.name)

    async def upload(self, request: Request) -> Response:
        """Answer `PUT /snapshots/{name}`: a tar file of any size, as there is space for it."""
        context = self._enter(request, "/snapshots/{name}", "admin")
        require_writable(self._settings)
        name = _name_in(request)
        length = context.headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            raise LengthRequired("the size of a snapshot is asked before it is taken", allowed="content-length")
        # It comes in parts and goes to the disk: limits on whole bodies are not meant for it, those on each part are.
        body = Body(request.receive, context, self._settings, int(length), timeout_s=math.inf)
        with self._snapshots.upload(name, int(length)) as file:
            async for part in body.parts():
                await anyio.to_thread.run_sync(file.write, part)
        (info,) = [info for info in await asyncio.to_thread(self._snapshots.list) if info.name == name]
        return message_reply(info, 201)

    async def delete(self, request: Request) -> Response:
        """Answer `DELETE /snapshots/{name}`."""
        self._enter(request, "/snapshots/{name}", "admin")
        require_writable(self._settings)
        name = _name_in(request)
        await self._write(lambda: self._snapshots.delete(name))
        return Response(status_code=204)

    async def restore(self, request: Request) -> Response:
        """Answer `POST /snapshots/{name}/restore`."""
        context = self._enter(request, "/snapshots/{name}/restore", "admin")
        require_writable(self._settings)
        name = _name_in(request)
        manifest = await self._write(lambda: self._snapshots.restore(name))
        return message_reply(self._state(manifest, await self._serving(context)))

    def _state(self, manifest: Manifest, serving: IndexInfo | None) -> IndexState:
        shared = ("version", "count", "kind", "created", "embedder", "fingerprint", "dim", "attributes")
        versions = self._view.layout.version_names()
        return IndexState(**manifest.model_dump(include=set(shared)), versions=versions, serving=serving)

    async def _serving(self, context: RequestContext) -> IndexInfo | None:
        """Return the version that the router has, or None when it has none or does not answer."""
        try:
            reply = await self._upstream.call("GET", _ROUTER_INFO, {REQUEST_ID_HEADER: context.request_id})
            return IndexInfo.model_validate(json.loads(reply.body)) if reply.status == 200 else None
        except (LookalikeError, ValueError):
            return None

    def _enter(self, request: Request, route: str, role: Role) -> RequestContext:
        context = context_of(request.scope)
        context.route = route
        self._admission.admit(context, role)
        return context

    async def _write(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)


def _name_in(request: Request) -> str:
    return validated(SnapshotRequest, {"name": request.path_params["name"]}).name
