"""BentoML.

Tuned by docs.bentoml.com/en/latest/build-with-bentoml/parallelize-requests.html (workers), .../asgi.html (a raw body
through a mounted ASGI application: a file or image argument would be written to disk or decoded first) and
.../reference/bentoml/configurations.html (no access log, no metrics). No adaptive batching, as for LitServe.
"""

import os
import sys
from pathlib import Path

import bentoml
from fastapi import FastAPI, Request, Response

from benchmarks.peers.chain import JSON_TYPE, PATH, Chain, PeerSettings

app = FastAPI()


@bentoml.service(
    workers=PeerSettings.load().workers,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
@bentoml.asgi_app(app)
class Search:
    """The chain in a worker."""

    def __init__(self) -> None:
        self._chain = Chain(PeerSettings.load())

    @app.post(PATH)  # type: ignore[untyped-decorator]
    async def search(self, request: Request) -> Response:
        """Answer one search."""
        return Response(await self._chain.search(await request.body()), media_type=JSON_TYPE)


def main() -> None:
    settings = PeerSettings.load()
    os.environ |= {"BENTOML_HOME": str(settings.run_dir / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", f"{__spec__.name}:Search"]
    os.execv(command[0], [*command, "--host", settings.host, "--port", str(settings.port)])


if __name__ == "__main__":
    main()
