"""Searches a running system in a closed loop: each client sends its next photo when it has the answer to the last."""

import http.client
import itertools
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.errors import PeerFailed

TIMEOUT_S = 60.0
# Triton's reply has a header of its own in front of the answer; the others have none.
HEADER_LENGTH = "Inference-Header-Content-Length"
JPEG = {"content-type": "image/jpeg"}


@dataclass(frozen=True)
class Endpoint:
    """Where and how a system is searched with a raw JPEG body."""

    address: str  # host:port
    path: str
    headers: Mapping[str, str] = field(default_factory=lambda: JPEG)


@dataclass(frozen=True)
class Reply:
    """One answered search."""

    photo: int
    ms: float
    body: bytes

    def answer(self) -> dict[str, Any]:
        """Return the search's answer."""
        answer: dict[str, Any] = json.loads(self.body)
        return answer


@dataclass(frozen=True)
class Loop:
    """The answered searches of one closed loop, and the seconds from its first request to its last answer."""

    replies: list[Reply]
    elapsed_s: float


def closed_loop(endpoint: Endpoint, photos: Sequence[bytes], clients: int, searches: int) -> Loop:
    """Send `searches` photos in turn from so many clients, each on a connection of its own.

    Raises:
        PeerFailed: when one is not answered with 200.
    """
    numbers, lock = itertools.count(), threading.Lock()

    def next_number() -> int:
        with lock:
            return next(numbers)

    def client() -> list[Reply]:
        replies = []
        with closing(http.client.HTTPConnection(endpoint.address, timeout=TIMEOUT_S)) as connection:
            while (number := next_number()) < searches:
                replies.append(_search(connection, endpoint, photos, number % len(photos)))
        return replies

    start_s = time.perf_counter()
    with ThreadPoolExecutor(clients) as executor:
        futures = [executor.submit(client) for _ in range(clients)]
        replies = [reply for future in futures for reply in future.result()]
    return Loop(replies, time.perf_counter() - start_s)


def _search(connection: http.client.HTTPConnection, endpoint: Endpoint, photos: Sequence[bytes], photo: int) -> Reply:
    start_s = time.perf_counter()
    try:
        connection.request("POST", endpoint.path, photos[photo], dict(endpoint.headers))
        with connection.getresponse() as response:
            body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise PeerFailed(f"a search was not answered: {error!r}") from error
    ms = (time.perf_counter() - start_s) * 1000
    if response.status != http.HTTPStatus.OK:
        raise PeerFailed(f"a search was answered with {response.status}: {body[:300].decode(errors='replace')}")
    return Reply(photo, ms, body[int(response.headers.get(HEADER_LENGTH, 0)) :])
