"""A real gateway in a thread, clients that hold each reply against the OpenAPI document, a server to stand behind."""

import json
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from jsonschema import Draft202012Validator
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lookalike.gateway.openapi import document
from lookalike.gateway.openapi_examples import EXAMPLES
from lookalike.gateway.serving import server_of
from lookalike.gateway.settings import GatewaySettings
from lookalike.preprocessing import Preprocess
from lookalike.rows import FINGERPRINT_HEADER, NPY_TYPE, array_in, npy_bytes
from lookalike.schemas import ModelInfo
from tests.colour_embedder import GRID, ColourEmbedder

Answer = Callable[[Request], Awaitable[Response]]


@contextmanager
def in_thread(server: uvicorn.Server) -> Iterator[str]:
    """Run a server in a thread; yield its address, and drain it at the end."""
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not (server.started and server.servers):
        assert thread.is_alive() and time.monotonic() < until, "the server does not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def running_gateway(**settings: Any) -> Iterator[str]:
    """Run a gateway on a free port; yield its address."""
    with in_thread(server_of(GatewaySettings(**{"port": 0, "drain_s": 2, **settings}))) as url:
        yield url


class Behind:
    """A server behind the gateway, where TorchServe cannot be brought to misbehave; it keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Answer = _well
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        self.under_way += 1
        try:
            body = await request.body()
            self.requests.append((scope["path"], dict(request.headers), body))
            response = await self.answer(request)
            await response(scope, receive, send)
        finally:
            self.under_way -= 1


_MESSAGES = {
    "/predictions/search": "SearchResponse",
    "/predictions/detector": "DetectorResponse",
    "/predictions/embedder": "EmbedderResponse",
    "/predictions/metadata_creator": "MetadataResponse",
    "/predictions/search/1.0/info": "IndexInfo",
}


async def _well(request: Request) -> Response:
    message = EXAMPLES[_MESSAGES[request.url.path]] if request.url.path in _MESSAGES else {}
    return Response(json.dumps(message), media_type="application/json")


@contextmanager
def standing_behind(behind: "Behind | None" = None) -> Iterator[tuple[str, Any]]:
    """Run a server to stand behind; yield its address and itself."""
    behind = behind or Behind()
    config = uvicorn.Config(behind, port=0, lifespan="off", log_config=None, access_log=False, ws="none")
    with in_thread(uvicorn.Server(config)) as url:
        yield url, behind


def client_of(url: str, key: str | None = None, timeout_s: float = 30) -> httpx.Client:
    """Return a client that holds every reply against the OpenAPI document."""
    headers = {"x-api-key": key} if key else {}
    return httpx.Client(
        base_url=url, headers=headers, timeout=timeout_s, event_hooks={"response": [hold_against_document]}
    )


def hold_against_document(reply: httpx.Response) -> None:
    """Fail unless the reply is one that the OpenAPI document announces."""
    reply.read()
    operation = _operation(reply.request)
    if operation is None:
        assert reply.status_code < 400 or _valid(reply, {"$ref": "#/components/schemas/ErrorResponse"})
        return
    responses = operation["responses"]
    announced = responses.get(str(reply.status_code))
    if announced is None:
        assert reply.status_code >= 400, f"{reply.status_code} is not announced"
        announced = document()["components"]["responses"]["Error"]
    content = announced.get("content")
    if not content:
        assert reply.content == b""
        return
    media_type = reply.headers["content-type"].split(";")[0]
    assert media_type in content, f"{media_type} is not announced for {reply.request.url}"
    if media_type == "application/json":
        assert _valid(reply, content[media_type]["schema"])


def _operation(request: httpx.Request) -> dict[str, Any] | None:
    path = request.url.raw_path.decode().split("?")[0]
    paths = document()["paths"]
    for template in sorted(paths, key=lambda path: ("{" in path, -len(path))):
        pattern = re.sub(r"\\\{item_id\\\}", ".+", re.escape(template)).replace(r"\{name\}", "[^/]+")
        if re.fullmatch(pattern, path):
            found: dict[str, Any] | None = paths[template].get(request.method.lower())
            return found
    return None


def _valid(reply: httpx.Response, schema: dict[str, Any]) -> bool:
    whole = {**schema, "components": document()["components"]}
    Draft202012Validator(whole).validate(reply.json())
    return True


class ColoursBehind(Behind):
    """Stands behind with a small real embedder, as `/items` needs one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedder = ColourEmbedder()
        self.answer = self._embed

    async def _embed(self, request: Request) -> Response:
        headers = {FINGERPRINT_HEADER: self.embedder.fingerprint}
        if request.url.path == "/predictions/embedder/1.0/info":
            card = ModelInfo(
                name="colours",
                version="1.0",
                fingerprint=self.embedder.fingerprint,
                preprocess=Preprocess(height_px=GRID, width_px=GRID, mean=(0, 0, 0), std=(1, 1, 1)),
                dim=self.embedder.dim,
            )
            return Response(card.model_dump_json(), media_type="application/json")
        if request.url.path == "/predictions/embedder":
            embeddings = self.embedder.embed(array_in(self.requests[-1][2]))
            return Response(npy_bytes(embeddings), headers=headers, media_type=NPY_TYPE)
        return await _well(request)
