"""The gateway as one ASGI app: what it is made of, and which path leads where."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from lookalike.errors import MethodNotAllowed, UnknownPath
from lookalike.gateway.admission import Admission
from lookalike.gateway.context import context_of
from lookalike.gateway.envelope import Envelope
from lookalike.gateway.health import HealthCheck, livez
from lookalike.gateway.image_url import ImageFetcher, Resolve, system_resolve
from lookalike.gateway.index_endpoints import IndexEndpoints
from lookalike.gateway.index_view import ImageFiles, IndexView, ReadableFiles
from lookalike.gateway.items import ItemEndpoints, item_id_in
from lookalike.gateway.label_tasks import LabelTasks
from lookalike.gateway.metrics import CONTENT_TYPE, GatewayMetrics
from lookalike.gateway.page import Page
from lookalike.gateway.proxy import Proxy
from lookalike.gateway.publisher import Publisher
from lookalike.gateway.samples import Samples
from lookalike.gateway.settings import GatewaySettings
from lookalike.gateway.show_openapi import OpenApi
from lookalike.gateway.snapshots import Snapshots
from lookalike.gateway.thumbnails import Thumbnails
from lookalike.gateway.upstream import Upstream

_EXPOSED = ("x-request-id", "x-lookalike-request-id", "x-lookalike-fingerprint", "retry-after", "etag")


class ByMethod:
    """An ASGI app that leads a request to the endpoint of its method; raises MethodNotAllowed for any other."""

    def __init__(self, **endpoints: Callable[[Request], Awaitable[Response]]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            raise MethodNotAllowed(f"{scope['method']} is not taken here", allowed=list(self._endpoints))
        response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)


class ItemPaths:
    """An ASGI app below /items/: only a path as it was sent tells an item from a thumbnail.

    Each has its own methods: who deletes a thumbnail must not lose the item.
    """

    def __init__(self, item: ByMethod, thumbnail: ByMethod) -> None:
        self._item, self._thumbnail = item, thumbnail

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises InvalidRequest for a path without a readable item_id."""
        _, is_thumbnail = item_id_in(scope)
        await (self._thumbnail if is_thumbnail else self._item)(scope, receive, send)


@dataclass
class _Parts:
    """What the app holds while it runs; made on the loop that serves it."""

    router: Router | None = None
    closing: list[Callable[[], Awaitable[None]]] = field(default_factory=list)


def create_app(settings: GatewaySettings, metrics: GatewayMetrics, resolve: Resolve = system_resolve) -> ASGIApp:
    """Return the gateway; `resolve` finds the addresses of hosts in `image_url`."""
    parts = _Parts()

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

    enveloped = Envelope(app, metrics)
    if not settings.cors_origins:
        return enveloped
    # Outermost: a page of another origin must be able to read errors, too.
    return CORSMiddleware(
        enveloped,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=["*"],
        expose_headers=_EXPOSED,
        max_age=3600,
    )


def _router(settings: GatewaySettings, metrics: GatewayMetrics, resolve: Resolve, parts: _Parts) -> Router:
    upstream, admission = Upstream(settings), Admission(settings, metrics)
    parts.closing.append(upstream.close)
    fetcher = None
    if settings.image_url:
        fetcher = ImageFetcher(settings, resolve)
        parts.closing.append(fetcher.close)
    routes: list[BaseRoute] = [
        *_own_routes(HealthCheck(upstream, settings.health_cache_s, settings.health_timeout_s), admission, metrics),
        Route("/openapi.json", ByMethod(GET=OpenApi(LabelTasks(settings, upstream)).show)),
        *_catalogue_routes(settings, metrics, admission, upstream, parts),
        Route("/predictions/{rest:path}", Proxy(settings, upstream, admission, fetcher, metrics)),
    ]
    if os.path.isdir(settings.web_dir):
        routes.append(Mount("/", Page(directory=settings.web_dir, html=True)))
    return Router(routes, redirect_slashes=False, default=_unknown)


def _own_routes(health: HealthCheck, admission: Admission, metrics: GatewayMetrics) -> list[BaseRoute]:
    async def show_metrics(request: Request) -> Response:
        context = context_of(request.scope)
        context.route = "/metrics"
        if admission.has_admin:
            admission.admit(context, "admin")
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return [
        Route("/livez", ByMethod(GET=livez)),
        Route("/healthz", ByMethod(GET=health.healthz)),
        Route("/metrics", ByMethod(GET=show_metrics)),
    ]


def _catalogue_routes(
    settings: GatewaySettings, metrics: GatewayMetrics, admission: Admission, upstream: Upstream, parts: _Parts
) -> list[BaseRoute]:
    view, images = IndexView(settings.index_dir), ImageFiles(settings.index_dir)
    pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="pictures")
    writer = ThreadPoolExecutor(1, thread_name_prefix="index-writer")
    publisher = Publisher(settings, view, images, writer, metrics)

    async def close() -> None:
        await publisher.close()
        pool.shutdown()
        writer.shutdown()

    parts.closing.append(close)
    thumbnails = Thumbnails(settings, view, ReadableFiles(settings.catalogue_roots, images), pool, metrics)
    samples = Samples(settings, admission, view, thumbnails, pool)
    items = ItemEndpoints(settings, admission, view, images, thumbnails, publisher, pool)
    index = IndexEndpoints(settings, admission, view, Snapshots(settings.index_dir, images), upstream, writer)
    return [
        Route("/index", ByMethod(GET=index.index)),
        Route("/samples", ByMethod(GET=samples.reply)),
        Route("/items", ByMethod(GET=items.list_items)),
        Route("/items/batch", ByMethod(POST=items.batch)),
        Route(
            "/items/{item_id:path}",
            ItemPaths(
                item=ByMethod(GET=items.get, PUT=items.put, DELETE=items.delete),
                thumbnail=ByMethod(GET=items.thumbnail),
            ),
        ),
        Route("/snapshots", ByMethod(GET=index.list_snapshots, POST=index.create_snapshot)),
        Route("/snapshots/{name}", ByMethod(GET=index.download, PUT=index.upload, DELETE=index.delete)),
        Route("/snapshots/{name}/restore", ByMethod(POST=index.restore)),
    ]


async def _unknown(scope: Scope, receive: Receive, send: Send) -> None:
    raise UnknownPath("no such path", allowed="see /openapi.json")
