"""The gateway as one ASGI app: what it is made of, and which path leads where."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from lookalike.errors import UnknownPath
from lookalike.gateway.admission import Admission
from lookalike.gateway.context import context_of
from lookalike.gateway.envelope import Envelope
from lookalike.gateway.health import Health, livez
from lookalike.gateway.image_url import ImageFetcher, Resolve, system_resolve
from lookalike.gateway.metrics import CONTENT_TYPE, GatewayMetrics
from lookalike.gateway.page import Page
from lookalike.gateway.proxy import Proxy
from lookalike.gateway.settings import GatewaySettings
from lookalike.gateway.upstream import Upstream

_EXPOSED = ("x-request-id", "x-lookalike-request-id", "x-lookalike-fingerprint", "retry-after", "etag")


@dataclass
class _Parts:
    """What the app holds while it runs; made on the loop that serves it."""

    router: Router | None = None
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)


def create_app(settings: GatewaySettings, resolve: Resolve = system_resolve) -> ASGIApp:
    """Return the gateway; `resolve` finds the addresses of hosts in `image_url`."""
    metrics, parts = GatewayMetrics(), _Parts()

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        parts.router = _router(settings, metrics, resolve, parts)
        yield
        for close in reversed(parts.closing):
            await close()

    entry = Router(lifespan=lifespan)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await entry(scope, receive, send)
            return
        assert parts.router is not None, "the server must run the app's lifespan"
        scope["app"] = app  # Starlette then raises for an unknown path, instead of answering in plain text
        await parts.router(scope, receive, send)

    inner: ASGIApp = app
    if settings.cors_origins:
        inner = CORSMiddleware(
            app,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
            max_age=3600,
        )
    return Envelope(inner, settings, metrics)


def _router(settings: GatewaySettings, metrics: GatewayMetrics, resolve: Resolve, parts: _Parts) -> Router:
    upstream, admission = Upstream(settings), Admission(settings, metrics)
    parts.closing.append(upstream.close)
    fetcher = None
    if settings.image_url:
        fetcher = ImageFetcher(settings, resolve)
        parts.closing.append(fetcher.close)
    health = Health(upstream, settings.health_cache_s)

    async def show_metrics(request: Request) -> Response:
        context = context_of(request.scope)
        context.route = "/metrics"
        if admission.has_admin:
            admission.admit(context, "admin")
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    routes: list[Route | Mount] = [
        Route("/livez", livez, methods=["GET"]),
        Route("/healthz", health.healthz, methods=["GET"]),
        Route("/metrics", show_metrics, methods=["GET"]),
        Route("/predictions/{rest:path}", Proxy(settings, upstream, admission, fetcher, metrics)),
    ]
    if os.path.isdir(settings.web_dir):
        routes.append(Mount("/", Page(directory=settings.web_dir, html=True)))
    return Router(routes, redirect_slashes=False, default=_unknown)


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    raise UnknownPath("no such path", allowed="see /openapi.json")
