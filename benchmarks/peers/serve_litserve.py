"""LitServe.

Tuned by lightning.ai/docs/litserve/api-reference/litserver (`workers_per_device`, as many API servers as workers, log
level `warning`, `fast_queue`) and .../features/async-concurrency (`enable_async`: a worker searches for several clients
at a time). No batching (.../features/batching): a batch of photos of different sizes gains nothing on a CPU.
"""

from typing import Annotated

import litserve
from fastapi import Body, Response

from benchmarks.peers.chain import JSON_TYPE, PATH, Chain, PeerSettings


class SearchApi(litserve.LitAPI):  # type: ignore[misc]  # litserve has no types
    """The chain in an inference worker, which searches for several clients at a time."""

    def setup(self, device: str) -> None:
        """Load the chain."""
        self._chain = Chain(PeerSettings.load())

    async def decode_request(self, request: Annotated[bytes, Body()]) -> bytes:
        """Return the photo as it came."""
        return request

    async def predict(self, photo: bytes) -> bytes:
        """Answer one search."""
        return await self._chain.search(photo)

    async def encode_response(self, answer: bytes) -> Response:
        """Return the answer as it is: FastAPI would encode anything else once more."""
        return Response(answer, media_type=JSON_TYPE)


def main() -> None:
    settings = PeerSettings.load()
    server = litserve.LitServer(
        SearchApi(api_path=PATH, enable_async=True),
        accelerator="cpu",
        devices=1,
        workers_per_device=settings.workers,
        fast_queue=True,
    )
    server.run(
        host=settings.host, port=settings.port, log_level="warning", generate_client_file=False, access_log=False
    )


if __name__ == "__main__":
    main()
