"""`Client` and `AsyncClient`: the same calls over two transports."""

import asyncio
import time
from collections.abc import Generator
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import quote

import httpx

from lookalike.client.flows import Embeddings, Flows, SearchKeywords, TwoTrip
from lookalike.client.images import ImageLike
from lookalike.client.retries import RetryPolicy
from lookalike.client.wire import Answer, Failed, Pause, Result, Send, Step
from lookalike.schemas import Description, DetectorResponse, SearchResponse

T = TypeVar("T")
_CONNECT_S = 5.0


class Client:
    """A client that blocks; may be shared by threads. Every call raises the errors of `lookalike.errors`."""

    def __init__(self, base_url: str, api_key: str | None = None, timeout_s: float = 30, retries: int = 2) -> None:
        """Talk to the gateway, or to TorchServe itself, at `base_url`.

        `timeout_s` is the deadline of a call, all its attempts, pauses and trips together. A call is sent again up to
        `retries` times when the service cannot be reached or is busy (429, 503), after the pause that it asks for.
        """
        self._base_url, self._http = base_url, httpx.Client(base_url=base_url)
        self._flows = Flows(api_key, timeout_s, RetryPolicy(retries))

    def search(self, image: ImageLike, **options: Unpack[SearchKeywords]) -> SearchResponse:
        """Find the catalogue items that look most like the subject of an image."""
        return self._drive(self._flows.search(image, options))

    def detect(self, image: ImageLike, *, min_score: float = 0.15, max_detections: int = 20) -> DetectorResponse:
        """Find the subjects in an image; boxes in pixels of what was sent."""
        return self._drive(self._flows.detect(image, {"min_score": min_score, "max_detections": max_detections}))

    def embed(self, *images: ImageLike) -> Embeddings:
        """Embed one or many crops."""
        return self._drive(self._flows.embed(images))

    def describe(self, *images: ImageLike) -> list[Description]:
        """Describe one or many crops."""
        return self._drive(self._flows.describe(images))

    def two_trip(self, image: ImageLike, **options: Unpack[SearchKeywords]) -> TwoTrip:
        """Search on a slow line: a small copy finds the subject, then only its crop is sent."""
        return self._drive(self._flows.two_trip(image, options))

    def thumbnail(self, item_id: str, edge_px: int = 256) -> bytes:
        """Fetch an item's picture from the gateway."""
        return self._drive(self._flows.thumbnail(thumbnail_path(item_id, edge_px)))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drive(self, flow: Generator[Step, Result, T]) -> T:
        result: Result = None
        try:
            while True:
                step = flow.send(result)
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    result = None
                else:
                    result = self._send(step)
        except StopIteration as done:
            value: T = done.value
            return value

    def _send(self, send: Send) -> Result:
        end_s = time.monotonic() + send.timeout_s
        try:
            with self._http.stream(**_request(send)) as reply:
                # A limit on each read alone would let a trickling answer go on for ever.
                parts = []
                for part in reply.iter_bytes():
                    parts.append(part)
                    if time.monotonic() > end_s:
                        return Failed(f"no answer within {send.timeout_s:.1f} s", timed_out=True)
                return Answer(reply.status_code, dict(reply.headers), b"".join(parts))
        except httpx.HTTPError as error:
            return _failed(self._base_url, error)


class AsyncClient:
    """The client for asyncio. Every call raises the errors of `lookalike.errors`."""

    def __init__(self, base_url: str, api_key: str | None = None, timeout_s: float = 30, retries: int = 2) -> None:
        """As `Client`."""
        self._base_url, self._http = base_url, httpx.AsyncClient(base_url=base_url)
        self._flows = Flows(api_key, timeout_s, RetryPolicy(retries))

    async def search(self, image: ImageLike, **options: Unpack[SearchKeywords]) -> SearchResponse:
        """Find the catalogue items that look most like the subject of an image."""
        return await self._drive(self._flows.search(image, options))

    async def detect(self, image: ImageLike, *, min_score: float = 0.15, max_detections: int = 20) -> DetectorResponse:
        """Find the subjects in an image; boxes in pixels of what was sent."""
        return await self._drive(self._flows.detect(image, {"min_score": min_score, "max_detections": max_detections}))

    async def embed(self, *images: ImageLike) -> Embeddings:
        """Embed one or many crops."""
        return await self._drive(self._flows.embed(images))

    async def describe(self, *images: ImageLike) -> list[Description]:
        """Describe one or many crops."""
        return await self._drive(self._flows.describe(images))

    async def two_trip(self, image: ImageLike, **options: Unpack[SearchKeywords]) -> TwoTrip:
        """Search on a slow line: a small copy finds the subject, then only its crop is sent."""
        return await self._drive(self._flows.two_trip(image, options))

    async def thumbnail(self, item_id: str, edge_px: int = 256) -> bytes:
        """Fetch an item's picture from the gateway."""
        return await self._drive(self._flows.thumbnail(thumbnail_path(item_id, edge_px)))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _drive(self, flow: Generator[Step, Result, T]) -> T:
        result: Result = None
        try:
            while True:
                # Reading, decoding and scaling happen between two steps: not on the loop that serves others.
                step = await asyncio.to_thread(_next, flow, result)
                if not isinstance(step, Send | Pause):
                    return step
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                    result = None
                else:
                    result = await self._send(step)
        finally:
            flow.close()

    async def _send(self, send: Send) -> Result:
        try:
            async with asyncio.timeout(send.timeout_s):
                reply = await self._http.request(**_request(send))
            return Answer(reply.status_code, dict(reply.headers), reply.content)
        except TimeoutError:
            return Failed(f"no answer within {send.timeout_s:.1f} s", timed_out=True)
        except httpx.HTTPError as error:
            return _failed(self._base_url, error)


def thumbnail_path(item_id: str, edge_px: int) -> str:
    """Return the path of an item's picture."""
    return f"/items/{quote(item_id, safe='')}/thumbnail?edge={edge_px}"


def _next(flow: Generator[Step, Result, T], result: Result) -> Step | T:
    """Return the flow's next step, or its value: StopIteration does not pass from a thread to a coroutine."""
    try:
        return flow.send(result)
    except StopIteration as done:
        value: T = done.value
        return value


def _request(send: Send) -> dict[str, Any]:
    timeout = httpx.Timeout(send.timeout_s, connect=min(_CONNECT_S, send.timeout_s))
    return {
        "method": send.method,
        "url": send.path,
        "headers": dict(send.headers),
        "content": send.body,
        "timeout": timeout,
    }


def _failed(base_url: str, error: httpx.HTTPError) -> Failed:
    timed_out = isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout)
    return Failed(f"{base_url}: {error or type(error).__name__}", timed_out)
