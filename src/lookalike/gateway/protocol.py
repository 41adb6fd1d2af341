"""The HTTP protocol of the server: as uvicorn's, with limits on a request's head and on slow readers."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from lookalike.errors import HeadersTooLarge, InvalidRequest, LookalikeError, RequestTimeout

_READ_BYTES = 262_144  # what asyncio hands over at most at a time


def bounded_protocol(
    header_timeout_s: float, send_timeout_s: float, max_header_bytes: int, refused: Callable[[str], None]
) -> type[HttpToolsProtocol]:
    """Return a protocol class for uvicorn, which itself waits without end for a head, and for who reads nothing.

    `refused` is told the code of each error that is answered here.
    """

    class BoundedProtocol(HttpToolsProtocol):
        _head_bytes = 0
        _raw_bytes = 0
        _in_head = True
        _timer: asyncio.TimerHandle | None = None
        _send_timer: asyncio.TimerHandle | None = None
        _refusal: LookalikeError | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._start_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            self._stop_send_timer()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._in_head:
                # The parser keeps an endless line to itself: what it took counts, too.
                self._raw_bytes += len(data)
            if self._raw_bytes > max_header_bytes + _READ_BYTES:
                self._refuse(HeadersTooLarge("the headers are too large", allowed=f"at most {max_header_bytes} bytes"))
                return
            super().data_received(data)
            self._watch_idle()

        def _watch_idle(self) -> None:
            """Count a connection as idle whose request was answered before its body had come: uvicorn forgets it."""
            idle = self.cycle is not None and self.cycle.response_complete and not self._in_head
            if idle and self.timeout_keep_alive_task is None and not self.transport.is_closing():
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._head_bytes, self._raw_bytes, self._in_head = 0, 0, True
            if self._timer is None:
                self._start_timer()

        def on_url(self, url: bytes) -> None:
            self._count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._count(len(name) + len(value) + 4)
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._in_head, self._raw_bytes = False, 0
            self._stop_timer()
            super().on_headers_complete()

        def send_400_response(self, msg: str) -> None:
            """Answer what the parser refuses, or what a limit refused inside of it."""
            self._refuse(self._refusal or InvalidRequest("this is no valid HTTP request"))

        def pause_writing(self) -> None:
            super().pause_writing()
            self._send_timer = self.loop.call_later(send_timeout_s, self.transport.abort)

        def resume_writing(self) -> None:
            self._stop_send_timer()
            super().resume_writing()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._abort_later()

        def _abort_later(self) -> None:
            # A transport that is closed still waits for its last bytes to be read.
            if self._send_timer is None:
                self._send_timer = self.loop.call_later(send_timeout_s, self.transport.abort)

        def _stop_send_timer(self) -> None:
            if self._send_timer is not None:
                self._send_timer.cancel()
                self._send_timer = None

        def _count(self, size: int) -> None:
            self._head_bytes += size
            if self._head_bytes > max_header_bytes:
                self._refusal = HeadersTooLarge(
                    "the headers are too large", allowed=f"at most {max_header_bytes} bytes"
                )
                raise self._refusal  # the parser turns it into its own error, and stops

        def _start_timer(self) -> None:
            self._timer = self.loop.call_later(header_timeout_s, self._too_slow)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _too_slow(self) -> None:
            self._timer = None
            self._refuse(RequestTimeout(f"the headers did not arrive within {header_timeout_s:g} s"))

        def _refuse(self, error: LookalikeError) -> None:
            """Write an answer past the app, which has not seen this request, and close."""
            if self.transport.is_closing():
                return
            refused(error.code)
            body = json.dumps({"error": error.as_dict()}).encode()
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[error.status] + head + body)
            self.transport.close()
            self._abort_later()

    return BoundedProtocol


def server_options(**given: Any) -> dict[str, Any]:
    """Return what every server of the gateway is started with, besides `given`."""
    return {"loop": "uvloop", "access_log": False, "server_header": False, "log_config": None, "ws": "none", **given}
