"""The gateway's process: uvicorn around the app, drained when it is told to end."""

import logging
import sys

import uvicorn

from lookalike.gateway.app import create_app
from lookalike.gateway.metrics import GatewayMetrics
from lookalike.gateway.protocol import bounded_protocol, server_options
from lookalike.gateway.settings import GatewaySettings
from lookalike.ts_adapter import JsonLines


def server_of(settings: GatewaySettings) -> uvicorn.Server:
    """Return the server, not yet started.

    SIGTERM and SIGINT end it: no new connections, requests under way are answered for up to `drain_s`.
    """
    metrics = GatewayMetrics()
    protocol = bounded_protocol(
        settings.header_timeout_s,
        settings.send_timeout_s,
        settings.max_header_bytes,
        refused=lambda code: metrics.rejected.labels(code).inc(),
    )
    config = uvicorn.Config(
        create_app(settings, metrics),
        **server_options(
            host=settings.host,
            port=settings.port,
            http=protocol,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),
            timeout_graceful_shutdown=max(1, round(settings.drain_s)),
            backlog=512,
        ),
    )
    return uvicorn.Server(config)


def serve(settings: GatewaySettings) -> None:
    """Serve until told to end; log JSON lines on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("lookalike", "uvicorn"):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(logging.INFO)
    server_of(settings).run()
