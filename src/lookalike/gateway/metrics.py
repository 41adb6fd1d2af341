"""What the gateway reports to Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"


class GatewayMetrics:
    """The gateway's series, in a registry of their own: two apps in one process do not mix."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody reads
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lookalike_gateway_requests", "Replies.", ["route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "lookalike_gateway_request_seconds",
            "Seconds from a request's headers to the end of its reply.",
            ["route"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.upstream_seconds = Histogram(
            "lookalike_gateway_upstream_seconds",
            "Seconds that the server behind took, the body's way there included.",
            ["route"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.in_flight = Gauge("lookalike_gateway_in_flight", "Requests under way.", registry=self.registry)
        self.rejected = Counter(
            "lookalike_gateway_rejected", "Errors that the gateway itself told.", ["reason"], registry=self.registry
        )
        self.thumbnails = Counter(
            "lookalike_gateway_thumbnails", "Thumbnails by where they came from.", ["source"], registry=self.registry
        )
        self.published = Counter(
            "lookalike_gateway_published", "Index versions published by item endpoints.", registry=self.registry
        )
        self.edits = Counter("lookalike_gateway_edits", "Items changed.", ["operation"], registry=self.registry)

    def render(self) -> bytes:
        """Return all series in Prometheus' text form."""
        return generate_latest(self.registry)
