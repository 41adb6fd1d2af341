"""FastAPI on uvicorn.

Tuned by fastapi.tiangolo.com/deployment/server-workers (a worker process a core), fastapi.tiangolo.com/async (`async
def` where it awaits) and uvicorn.org/settings (`uvicorn[standard]` brings uvloop and httptools; no access log).
"""

import uvicorn
from fastapi import FastAPI, Request, Response

from benchmarks.peers.chain import JSON_TYPE, PATH, Chain, PeerSettings


def create_app() -> FastAPI:
    """Return the application; every worker process makes its own."""
    app, chain = FastAPI(), Chain(PeerSettings.load())

    async def search(request: Request) -> Response:
        return Response(await chain.search(await request.body()), media_type=JSON_TYPE)

    app.add_api_route(PATH, search, methods=["POST"])
    return app


def main() -> None:
    settings = PeerSettings.load()
    uvicorn.run(
        f"{__spec__.name}:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
