"""A real small model server whose answers a test chooses: TorchServe cannot be brought to misbehave like this."""

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
from aiohttp import web

from lookalike import rows as wire
from lookalike.preprocessing import Preprocess
from lookalike.schemas import ModelInfo

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SmallServer:
    """A model server whose answers a test chooses; it keeps what it was sent."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.bodies: list[bytes] = []
        self.cards = 0
        self.request_ids: list[str | None] = []
        self.side_px, self.fingerprint = 8, "a" * 16

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(height_px=self.side_px, width_px=self.side_px, mean=(0, 0, 0), std=(1, 1, 1))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.request_ids.append(request.headers.get(wire.REQUEST_ID_HEADER))
        if request.headers.get(wire.PATH_HEADER) == "info":
            self.cards += 1
            card = ModelInfo(name="m", version="1.0", fingerprint=self.fingerprint, preprocess=self.preprocess)
            return web.Response(text=card.model_dump_json())
        self.bodies.append(await request.read())
        return await (self.answers.pop(0) if self.answers else self.embeddings)(request)

    async def embeddings(self, request: web.Request) -> web.Response:
        n = len(np.load(io.BytesIO(self.bodies[-1])))
        buffer = io.BytesIO()
        np.savez(buffer, embeddings=np.ones((n, 2), np.float32), features=np.zeros((n, 3), np.float32))
        told = {wire.FINGERPRINT_HEADER: self.fingerprint, wire.PREPROCESS_HEADER: self.preprocess.digest()}
        return web.Response(body=buffer.getvalue(), headers=told)

    async def one_box(self, request: web.Request) -> web.Response:
        detection = {"box": [0, 0, 4, 8], "score": 0.5, "label": "x"}
        return web.json_response({"detections": [detection], "image": {"width": 8, "height": 8, "format": "NPY"}})


async def hangs_up(request: web.Request) -> web.StreamResponse:
    request.transport.close()
    return web.Response()


async def breaks_off(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse(headers={"content-length": "1000"})
    await reply.prepare(request)
    await reply.write(b"half")
    request.transport.close()
    return reply


async def refuse(request: web.Request) -> web.StreamResponse:
    return web.Response(status=503, text="no worker")


async def listening(app: web.Application) -> tuple[web.AppRunner, str]:
    """Let an app listen on a free port; return what ends it, and its address."""
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    return runner, f"http://{host}:{port}"


@asynccontextmanager
async def serving(server: SmallServer) -> AsyncIterator[str]:
    """Run the server on a free port; yield its address."""
    app = web.Application()
    app.router.add_route("*", "/m", server.handle)
    runner, url = await listening(app)
    try:
        yield f"{url}/m"
    finally:
        await runner.cleanup()
