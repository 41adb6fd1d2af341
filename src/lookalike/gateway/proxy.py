"""`/predictions/*`: what a client asks of a model, let in, bounded and passed on."""

import re
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lookalike.errors import InvalidOption, MethodNotAllowed, UnknownPath, UnsupportedImage
from lookalike.gateway.admission import Admission
from lookalike.gateway.body import Body
from lookalike.gateway.context import RequestContext, context_of
from lookalike.gateway.image_url import ImageFetcher, image_url_in_body
from lookalike.gateway.metrics import GatewayMetrics
from lookalike.gateway.settings import GatewaySettings
from lookalike.gateway.upstream import Upstream, UpstreamReply
from lookalike.options import IMAGE_URL, OPTIONS_OF, option_headers, query_fields
from lookalike.rows import JSON_TYPE, OPTION_HEADER, PATH_HEADER, REPLY_ID_HEADER, REQUEST_ID_HEADER, RETRY_HEADER

_PATH = re.compile(
    r"/predictions/(?P<model>[A-Za-z0-9_-]{1,64})(?:/(?P<version>[0-9.]{1,16})(?P<part>/healthz|/info)?)?"
)
_FORWARDED = ("content-type", "accept")
_FORM = "application/x-www-form-urlencoded"
_BYTES = "application/octet-stream"
_GATEWAYS_OWN = (REPLY_ID_HEADER,)


class _Call(NamedTuple):
    """One request to a model, understood."""

    method: str
    path: str
    model: str
    headers: dict[str, str]
    image_url: str | None


class Proxy:
    """An ASGI app: every request of a client to a model goes through here."""

    def __init__(
        self,
        settings: GatewaySettings,
        upstream: Upstream,
        admission: Admission,
        fetcher: ImageFetcher | None,
        metrics: GatewayMetrics,
    ) -> None:
        self._settings, self._upstream, self._admission = settings, upstream, admission
        self._fetcher, self._metrics = fetcher, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises LookalikeError for what is refused."""
        context = context_of(scope)
        caller = self._admission.admit(context, "read")
        call = self._understand(scope, context)
        with self._admission.slot(caller):
            body = Body(receive, context, self._settings, self._settings.max_body_bytes)
            reply = await self._pass_on(call, body)
        known = call.model if reply.status != 404 else "unknown"  # names that clients make up are no labels
        self._metrics.upstream_seconds.labels(f"/predictions/{known}").observe(reply.seconds)
        await _reply_of(reply)(scope, receive, send)

    def _understand(self, scope: Scope, context: RequestContext) -> _Call:
        match = _PATH.fullmatch(scope["path"])
        if match is None:
            raise UnknownPath("no such path", allowed=[f"/predictions/{model}" for model in OPTIONS_OF])
        model, method = match["model"], "GET" if match["part"] else "POST"
        context.route = f"/predictions/{model if model in OPTIONS_OF else '<task>'}{match['part'] or ''}"
        if scope["method"] != method:
            raise MethodNotAllowed(f"{scope['method']} is not taken here", allowed=[method])
        if "content-encoding" in context.headers:
            raise UnsupportedImage("bodies are taken as they are, without a content-encoding")
        options = query_fields(scope["query_string"])
        if IMAGE_URL in options and self._fetcher is None:
            raise InvalidOption("image_url is switched off on this service", allowed=["image"])
        also = () if self._fetcher is None else (IMAGE_URL,)
        headers = _forwarded(context) | option_headers(model, options, also)
        return _Call(method, scope["path"], model, headers, options.get(IMAGE_URL))

    async def _pass_on(self, call: _Call, body: Body) -> UpstreamReply:
        first = await body.next()
        if self._fetcher is not None and call.method == "POST":
            if call.image_url is not None:
                image = await self._fetcher.fetch(call.image_url)
                return await self._upstream.call(call.method, call.path, call.headers | {"content-type": _BYTES}, image)
            if _media_type(call.headers) == JSON_TYPE:
                found, first = await image_url_in_body(body, first)
                if found is not None:
                    image = await self._fetcher.fetch(found.url)
                    headers = call.headers | option_headers(call.model, found.options) | {"content-type": _BYTES}
                    return await self._upstream.call(call.method, call.path, headers, image)
        if body.ended:
            return await self._upstream.call(call.method, call.path, call.headers, first)
        length = {} if body.length is None else {"content-length": str(body.length)}
        return await self._upstream.call(call.method, call.path, call.headers | length, body, first)


def _media_type(headers: dict[str, str]) -> str:
    return headers.get("content-type", "").split(";")[0].strip().lower()


def _forwarded(context: RequestContext) -> dict[str, str]:
    """Return the headers that are passed on: named ones only, so that none reaches the server's own switches."""
    headers = {name: context.headers[name] for name in _FORWARDED if name in context.headers}
    headers |= {
        name: value
        for name, value in context.headers.items()
        if name.startswith(OPTION_HEADER) and name not in (PATH_HEADER, REPLY_ID_HEADER)
    }
    if _media_type(headers) in (_FORM, ""):
        # What `curl --data-binary` says of an image; the server behind would try to read it as a form.
        headers["content-type"] = _BYTES
    return headers | {REQUEST_ID_HEADER: context.request_id}


def _reply_of(reply: UpstreamReply) -> Response:
    headers = {
        name.lower(): value
        for name, value in reply.headers.items()
        if name.lower().startswith(OPTION_HEADER) and name.lower() not in _GATEWAYS_OWN
    }
    if reply.status == 503:
        headers[RETRY_HEADER] = reply.headers.get(RETRY_HEADER, "2")
    return Response(reply.body, reply.status, headers, media_type=reply.headers.get("content-type", JSON_TYPE))
