"""What surrounds every request: its id, errors in the project's form, security headers, one log line, metrics."""

import logging
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lookalike.errors import LookalikeError, MethodNotAllowed, RequestTimeout, UnknownPath
from lookalike.gateway.body import discard
from lookalike.gateway.context import RequestContext, new_context
from lookalike.gateway.metrics import GatewayMetrics
from lookalike.gateway.replies import error_reply
from lookalike.rows import REPLY_ID_HEADER, REQUEST_ID_HEADER

access_log = logging.getLogger("lookalike.access")
logger = logging.getLogger(__name__)

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
_SECURITY = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
_QUIET = ("/healthz", "/livez", "/metrics")  # asked every few seconds: they would drown what clients do


class _Reply:
    """What was sent of a reply so far."""

    def __init__(self) -> None:
        self.status = 0
        self.body_read = False


class Envelope:
    """The outermost ASGI app; nothing is ever raised out of it but a cancellation."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; everything else that a server sends (lifespan) passes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context, reply = new_context(scope), _Reply()
        wrapped = self._sender(send, context, reply)
        try:
            await self._app(scope, _watched(receive, reply), wrapped)
        except Exception as error:
            await self._tell(_as_told(error, context), context, reply, scope, receive, wrapped)
        finally:
            self._report(scope, context, reply.status)

    def _sender(self, send: Send, context: RequestContext, reply: _Reply) -> Send:
        request_id = context.request_id.encode()
        added = [*_SECURITY, (REQUEST_ID_HEADER.encode(), request_id), (REPLY_ID_HEADER.encode(), request_id)]

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        return sender

    async def _tell(
        self,
        error: LookalikeError,
        context: RequestContext,
        reply: _Reply,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer with `error`, unless an answer is under way: that one can only be cut off."""
        context.code = error.code
        self._metrics.rejected.labels(error.code).inc()
        if reply.status:
            raise error
        response = error_reply(error, context.request_id)
        if reply.body_read or not _announces_body(context):
            await response(scope, receive, send)
            return
        # The rest of the body is not wanted: the connection ends here, but not before the answer has arrived.
        response.headers["connection"] = "close"
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        if not isinstance(error, RequestTimeout):
            await discard(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _report(self, scope: Scope, context: RequestContext, status: int) -> None:
        seconds = time.perf_counter() - context.start_s
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS") else "other"
        self._metrics.requests.labels(context.route, method, str(status)).inc()
        self._metrics.seconds.labels(context.route).observe(seconds)
        if context.route in _QUIET:
            return
        fields = {
            "request_id": context.request_id,
            "route": context.route,
            "method": method,
            "status": status,
            "code": context.code,
            "key": context.key,
            "total_ms": round(seconds * 1000, 1),
        }
        access_log.info("request", {name: value for name, value in fields.items() if value is not None})


def _watched(receive: Receive, reply: _Reply) -> Receive:
    async def watched() -> Message:
        message = await receive()
        reply.body_read = not message.get("more_body", False)
        return message

    return watched


def _announces_body(context: RequestContext) -> bool:
    return context.headers.get("content-length", "0") != "0" or "transfer-encoding" in context.headers


def _as_told(error: Exception, context: RequestContext) -> LookalikeError:
    """Return the error that a client is told; what nobody expected is logged and not quoted."""
    if isinstance(error, LookalikeError):
        return error
    if isinstance(error, HTTPException):
        if error.status_code == 405:
            # Only the page's files raise this: all else names its own methods.
            return MethodNotAllowed("this method is not taken here", allowed=["GET", "HEAD"])
        if error.status_code == 404:
            return UnknownPath("no such path", allowed="see /openapi.json")
    logger.error("request %s failed", context.request_id, exc_info=error)
    return LookalikeError("the request failed; the log has its id")
