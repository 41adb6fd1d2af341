"""Small real model servers that can be slow, dead or wrong, and a router in front of them."""

import asyncio
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from lookalike import rows as wire
from lookalike.config import IndexSettings, RouterSettings
from lookalike.index.edits import IndexEditor
from lookalike.preprocessing import Preprocess
from lookalike.schemas import Attribute, Description, MetadataResponse, ModelInfo
from lookalike.search_service import SearchService
from tests.colour_embedder import GRID, ColourEmbedder, catalogue_of
from tests.small_model_server import Answer, breaks_off, hangs_up, listening

PREPROCESS = Preprocess(height_px=GRID, width_px=GRID, mean=(0, 0, 0), std=(1, 1, 1))


async def never(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    return web.Response()


async def answers_500(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="Traceback: /opt/secret/model.py")


async def answers_nonsense(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>It works!</html>")


async def trickles(request: web.Request) -> web.StreamResponse:
    """Answer at once, and then a byte now and then: a timeout of a single read never ends it."""
    reply = web.StreamResponse(headers={"content-length": "1000"})
    await reply.prepare(request)
    for _ in range(600):
        await reply.write(b"x")
        await asyncio.sleep(0.1)
    return reply


FAULTS = (never, answers_500, answers_nonsense, hangs_up, breaks_off, trickles)


class ModelServer:
    """One model, well unless it has a `fault`; it counts the calls that arrive."""

    def __init__(self, model: str) -> None:
        self.model, self.calls = model, 0
        self.fault: Answer | None = None
        self._embedder = ColourEmbedder()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        path = request.headers.get(wire.PATH_HEADER)
        if path == "info":
            return web.Response(text=self._card().model_dump_json())
        self.calls += 1
        if self.fault is not None:
            return await self.fault(request)
        if path == "healthz":
            return web.json_response({"ready": True})
        return self._answer(np.load(io.BytesIO(body)))

    def _card(self) -> ModelInfo:
        return ModelInfo(name=self.model, version="1.0", fingerprint=self._embedder.fingerprint, preprocess=PREPROCESS)

    def _answer(self, pixels: Any) -> web.Response:
        if self.model == "detect":
            detection = {"box": [0, 0, GRID, GRID], "score": 0.9, "label": "subject"}
            image = {"width": GRID, "height": GRID, "format": "NPY"}
            return web.json_response({"detections": [detection], "image": image})
        if self.model == "embed":
            buffer = io.BytesIO()
            np.savez(buffer, embeddings=self._embedder.embed(pixels))
            headers = {wire.FINGERPRINT_HEADER: self._embedder.fingerprint}
            return web.Response(body=buffer.getvalue(), headers=headers)
        described = Description(attributes=[Attribute(name="colour", label="red", score=0.9, sure=True)])
        return web.Response(text=MetadataResponse(descriptions=[described] * len(pixels)).model_dump_json())


class ModelServers:
    """The three of them by the name of their stage, on one port."""

    def __init__(self) -> None:
        self.detect, self.embed, self.describe = (ModelServer(stage) for stage in ("detect", "embed", "describe"))
        self.url = ""

    def of(self, stage: str) -> ModelServer:
        found: ModelServer = getattr(self, stage)
        return found

    async def start(self) -> web.AppRunner:
        app = web.Application()
        for stage in ("detect", "embed", "describe"):
            app.router.add_route("*", f"/{stage}", self.of(stage).handle)
        runner, self.url = await listening(app)
        return runner


@contextmanager
def model_servers() -> Iterator[ModelServers]:
    """Run them on a loop in a thread of its own."""
    servers, loop = ModelServers(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(servers.start(), loop).result(10)
    try:
        yield servers
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def index_of_colours(folder: Path, count: int = 40) -> Path:
    """Publish an index of `count` pictures; return its folder."""
    IndexEditor(folder / "index", IndexSettings()).build(catalogue_of(folder / "pictures", count), ColourEmbedder())
    return folder / "index"


@contextmanager
def router(servers: ModelServers, index_dir: Path, **settings: Any) -> Iterator[SearchService]:
    """Run the router with these model servers."""
    urls = {
        "detector_url": f"{servers.url}/detect",
        "embedder_url": f"{servers.url}/embed",
        "metadata_url": f"{servers.url}/describe",
    }
    service = SearchService(RouterSettings(index_dir=index_dir, describe_from="crop", **urls, **settings))
    try:
        yield service
    finally:
        service.close()
