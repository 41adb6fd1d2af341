"""A load of searches in threads that keeps how each one ended, and what the service says of itself meanwhile."""

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType

import httpx

ERROR_CODES = {"model_unavailable", "model_failed", "deadline_exceeded", "overloaded", "not_ready", "index_unavailable"}


@dataclass(frozen=True)
class Ended:
    """How one request ended: when, in seconds of `time.monotonic`, its status, its error's code ("" for none)."""

    at_s: float
    status: int
    code: str
    seconds: float


@dataclass
class Load:
    """Searches with `photo` by `clients` threads until the block ends."""

    url: str
    photo: bytes
    clients: int = 4
    timeout_s: float = 30.0
    ended: list[Ended] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._search) for _ in range(self.clients)]

    def _search(self) -> None:
        with httpx.Client(timeout=self.timeout_s) as client:
            while not self._stop.is_set():
                self.ended.append(one_search(client, self.url, self.photo))

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def untyped(self) -> list[Ended]:
        """Requests that got neither 200 nor an error of the service's own."""
        return [one for one in self.ended if one.status != 200 and one.code not in ERROR_CODES]

    @property
    def slowest_s(self) -> float:
        """The longest that a request took."""
        return max(one.seconds for one in self.ended)


def one_search(client: httpx.Client, url: str, photo: bytes) -> Ended:
    """Search once; a connection that breaks or hangs has the status 0."""
    begun = time.monotonic()
    try:
        reply = client.post(f"{url}/predictions/search", content=photo, headers={"content-type": "image/jpeg"})
        code = "" if reply.status_code == 200 else str(reply.json()["error"]["code"])
        status = reply.status_code
    except (httpx.HTTPError, ValueError, KeyError) as error:
        status, code = 0, type(error).__name__
    end = time.monotonic()
    return Ended(end, status, code, end - begun)


def wait_for_health(url: str, ready: bool, limit_s: float) -> float:
    """Return the seconds until `healthz` says `ready`.

    Raises:
        TimeoutError: it does not within `limit_s`; with what it says.
    """
    begun = time.monotonic()
    while True:
        told = httpx.get(f"{url}/healthz", timeout=15)
        if (told.status_code == 200) == ready:
            return time.monotonic() - begun
        if time.monotonic() - begun > limit_s:
            raise TimeoutError(f"ready is still {not ready} after {limit_s:.0f} s: {told.text[:500]}")
        time.sleep(0.05)
