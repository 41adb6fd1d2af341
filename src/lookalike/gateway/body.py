"""A request's body as it arrives: never more than is allowed, never slower than is allowed, never kept."""

import asyncio
from collections.abc import AsyncIterator

from starlette.types import Receive

from lookalike.errors import BodyTooLarge, InvalidRequest, LookalikeError, RequestTimeout
from lookalike.gateway.context import RequestContext
from lookalike.gateway.settings import GatewaySettings

_LINGER_S, _LINGER_BYTES = 2.0, 256_000_000


class Body:
    """Reads a body once, part by part; `error` is what broke the reading off.

    Raises on creation:
        BodyTooLarge: by the length that the client names.
    """

    def __init__(
        self,
        receive: Receive,
        context: RequestContext,
        settings: GatewaySettings,
        max_bytes: int,
        timeout_s: float | None = None,
    ) -> None:
        self._receive, self._settings, self._max_bytes = receive, settings, max_bytes
        self._end_s = asyncio.get_running_loop().time() + (timeout_s or settings.body_timeout_s)
        self._seen = 0
        self._ended = False
        self.error: LookalikeError | None = None
        self.length = _length_of(context)
        if self.length is not None and self.length > max_bytes:
            raise self._too_large()

    @property
    def ended(self) -> bool:
        """Tell whether the last part was read."""
        return self._ended

    async def next(self) -> bytes:
        """Return the next part, empty at the end.

        Raises:
            BodyTooLarge, RequestTimeout: as the settings say.
            InvalidRequest: the client hung up.
        """
        try:
            return await self._next()
        except LookalikeError as error:
            self.error = error
            raise

    async def parts(self, first: bytes = b"") -> AsyncIterator[bytes]:
        """Yield `first` and then the rest; raises as `next`."""
        if first:
            yield first
        while not self._ended:
            if part := await self.next():
                yield part

    async def read(self) -> bytes:
        """Return all of it; raises as `next`."""
        return b"".join([part async for part in self.parts()])

    async def _next(self) -> bytes:
        if self._ended:
            return b""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(min(self._settings.chunk_timeout_s, self._end_s - loop.time())):
                message = await self._receive()
        except TimeoutError as error:
            raise RequestTimeout("the body did not arrive in time") from error
        if message["type"] != "http.request":
            raise InvalidRequest("the client hung up before its body had arrived")
        part: bytes = message.get("body", b"")
        self._seen += len(part)
        self._ended = not message.get("more_body", False)
        if self._seen > self._max_bytes:
            raise self._too_large()
        return part

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge("the body has too many bytes", allowed=f"at most {self._max_bytes} bytes")


async def discard(receive: Receive) -> None:
    """Read on for a moment after a refusal: a connection that is closed upon unread data loses the answer, too."""
    seen = 0
    try:
        async with asyncio.timeout(_LINGER_S):
            while seen < _LINGER_BYTES:
                message = await receive()
                seen += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _length_of(context: RequestContext) -> int | None:
    text = context.headers.get("content-length")
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
