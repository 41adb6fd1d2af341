"""The server behind: pooled connections, a deadline, and its odd answers in the project's form."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import aiohttp

from lookalike.errors import (
    DeadlineExceeded,
    ImageTooLarge,
    InvalidRequest,
    LookalikeError,
    MethodNotAllowed,
    ModelFailed,
    ModelUnavailable,
    Overloaded,
    UnknownPath,
)
from lookalike.gateway.body import Body
from lookalike.gateway.settings import GatewaySettings
from lookalike.rows import DEADLINE_HEADER

logger = logging.getLogger(__name__)
_CONNECT_S = 2.0
_KEEP_ALIVE_S = 20.0
_RETRY_AFTER_S = 2.0
_GRACE_MS = 100.0  # for the server behind to tell itself which stage was late
_NO_FORM = "ErrorDataDecoderException"  # what TorchServe calls a client's damaged form, with status 500
_OWN_HEADERS = ("User-Agent", "Accept-Encoding", "Accept", "Content-Type")


class UpstreamReply(NamedTuple):
    """What the server behind answered, read wholly: a slow reader must not hold a place there."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


class Upstream:
    """The pooled client; make it inside of the event loop that it is used in."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings, self._base = settings, settings.upstream_url.rstrip("/")
        # Behind a Service of several pods each request gets a connection, and thereby a pod, of its own.
        kept: dict[str, Any] = (
            {"keepalive_timeout": _KEEP_ALIVE_S} if settings.keep_connections else {"force_close": True}
        )
        connector = aiohttp.TCPConnector(limit=settings.max_connections, **kept)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            skip_auto_headers=_OWN_HEADERS,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def call(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | Body = b"", first: bytes = b""
    ) -> UpstreamReply:
        """Send a request on and return the answer; a body is passed on as it arrives, after the part `first`.

        Raises:
            ModelUnavailable, Overloaded, ModelFailed, DeadlineExceeded: what the server behind did.
            LookalikeError: what the body was refused for, or what the server answered in a form of its own.
        """
        start_s = time.perf_counter()
        try:
            # The clock of the deadline starts when the body is through; until then the body's own limits hold.
            async with asyncio.timeout(None) as timeout:
                start_clock = partial(_start_clock, timeout, self._deadline_ms(headers))
                data = body if isinstance(body, bytes) else _stream(body, first, start_clock)
                if isinstance(body, bytes):
                    start_clock()
                status, answered, content = await self._send(method, path, dict(headers), data)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"the server behind did not answer within {self._deadline_ms(headers):.0f} ms"
            ) from error
        except aiohttp.ClientError as error:
            if isinstance(body, Body) and body.error is not None:
                raise body.error from error
            logger.warning("%s %s failed: %r", method, path, error)
            raise ModelUnavailable("the server behind cannot be reached", retry_after_s=_RETRY_AFTER_S) from error
        reply = UpstreamReply(status, answered, content, time.perf_counter() - start_s)
        if status >= 400 and not _in_form(content):
            raise translated(status, content)
        return reply

    def _deadline_ms(self, headers: Mapping[str, str]) -> float:
        """Return how long to wait: a client's own deadline counts here with the queue of the server behind in it."""
        try:
            asked_ms = float(headers.get(DEADLINE_HEADER, "inf"))
        except ValueError:
            return self._settings.deadline_ms  # the server behind says what is wrong with it
        return min(self._settings.deadline_ms, asked_ms + _GRACE_MS) if asked_ms > 0 else self._settings.deadline_ms

    async def _send(
        self, method: str, path: str, headers: dict[str, str], data: bytes | AsyncIterator[bytes]
    ) -> tuple[int, Mapping[str, str], bytes]:
        try:
            return await self._send_once(method, path, headers, data)
        except aiohttp.ServerDisconnectedError:
            # The server closed a pooled connection just now. All calls here only read: once more is safe.
            if not isinstance(data, bytes):
                raise
            return await self._send_once(method, path, headers, data)

    async def _send_once(
        self, method: str, path: str, headers: dict[str, str], data: bytes | AsyncIterator[bytes]
    ) -> tuple[int, Mapping[str, str], bytes]:
        url, payload = self._base + path, data or None
        async with self._session.request(method, url, data=payload, headers=headers, allow_redirects=False) as reply:
            return reply.status, reply.headers, await self._bounded(reply)

    async def _bounded(self, reply: aiohttp.ClientResponse) -> bytes:
        limit, parts, size = self._settings.max_response_bytes, [], 0
        async for part in reply.content.iter_any():
            size += len(part)
            if size > limit:
                raise ModelFailed(f"the answer has more than {limit} bytes")
            parts.append(part)
        return b"".join(parts)


def _start_clock(timeout: asyncio.Timeout, deadline_ms: float) -> None:
    timeout.reschedule(asyncio.get_running_loop().time() + deadline_ms / 1000)


async def _stream(body: Body, first: bytes, at_end: Callable[[], None]) -> AsyncIterator[bytes]:
    async for part in body.parts(first):
        yield part
    at_end()


def _in_form(content: bytes) -> bool:
    """Tell whether an error is told in the project's own form; a health check has `checks` instead."""
    told = _json_object(content)
    return "checks" in told or (isinstance(told.get("error"), dict) and "code" in told["error"])


def translated(status: int, content: bytes) -> LookalikeError:
    """Return what an answer in TorchServe's form, or in no form at all, means to a client; its text stays here."""
    logger.warning("the server behind answered %d: %r", status, content[:300])
    if status == 413:
        return ImageTooLarge("the server behind takes no body of this size")
    if status == 500 and _json_object(content).get("type") == _NO_FORM:
        return InvalidRequest("the form cannot be read", allowed="multipart/form-data whose parts have names")
    if status in (400, 404, 405):
        kinds: dict[int, type[LookalikeError]] = {400: InvalidRequest, 404: UnknownPath, 405: MethodNotAllowed}
        words = {400: "cannot read this request", 404: "has no such model", 405: "does not take this method here"}
        return kinds[status](f"the server behind {words[status]}")
    if status == 503:
        return Overloaded("the server behind is busy or starting", retry_after_s=_RETRY_AFTER_S)
    return ModelFailed("the model failed to answer; it may be restarting", retry_after_s=_RETRY_AFTER_S)


def _json_object(content: bytes) -> dict[str, Any]:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
