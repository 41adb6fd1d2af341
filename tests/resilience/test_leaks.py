"""Thousands of requests of every kind: no process grows."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import psutil
import pytest

from lookalike.free_memory import TRIM_EVERY_S
from tests.resilience.promises import Promise
from tests.resilience.real_stack import JPEG, Stack, ask, photo, running_stack

pytestmark = pytest.mark.full
CLIENTS = 6
BAD = 0.05
WARM_UP = 0.25  # of all requests
MODELS = ("search",) * 4 + ("detector", "embedder", "metadata_creator")
MOST_GROWTH = 2.0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("leaks")) as stack:
        yield stack


def pictures() -> list[bytes]:
    """Return images of many sizes and formats; more small ones, as of clients that shrink."""
    small = [photo(edge_px, seed) for seed in range(12) for edge_px in (224, 320, 480)]
    kinds = [photo(edge_px, 99, kind) for edge_px in (300, 640) for kind in ("PNG", "WEBP", "BMP", "GIF", "TIFF")]
    return [*small, *kinds, photo(1500, 98), photo(3000, 98)]


def bad_bodies(whole: bytes) -> list[bytes]:
    return [b"no image at all", whole[: len(whole) // 2], b"\x89PNG\r\n\x1a\n" + bytes(300), b"\xff\xd8" + bytes(100)]


class Clients:
    """Send requests from several threads, round by round."""

    def __init__(self, url: str) -> None:
        self._url, self._pictures = url, pictures()
        self._bad = bad_bodies(self._pictures[0])
        self._chances = [random.Random(n) for n in range(CLIENTS)]
        self._lock = threading.Lock()
        self.done, self.told = 0, Counter[tuple[bool, int]]()

    def send(self, count: int) -> None:
        """Send so many requests and return when all are answered."""
        left = iter(range(count))
        threads = [threading.Thread(target=self._run, args=(chance, left)) for chance in self._chances]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run(self, chance: random.Random, left: Iterator[int]) -> None:
        headers = {"content-type": "application/octet-stream"}
        with httpx.Client(base_url=self._url, headers=headers, timeout=60) as http:
            while True:
                with self._lock:
                    if next(left, None) is None:
                        return
                bad = chance.random() < BAD
                body = chance.choice(self._bad if bad else self._pictures)
                one = ask(http, body, f"/predictions/{chance.choice(MODELS)}")
                with self._lock:
                    self.done += 1
                    self.told[bad, one.status] += 1


def at_rest(stack: Stack) -> dict[str, int]:
    """Return each process's resident bytes once what was freed is given back, and nothing is under way."""
    time.sleep(TRIM_EVERY_S + 1)
    with httpx.Client(base_url=stack.url, headers=JPEG, timeout=60) as http:
        for model in set(MODELS):
            assert ask(http, photo(224), f"/predictions/{model}").status == 200
    time.sleep(1)
    return {name: psutil.Process(pid).memory_info().rss for name, pid in stack.processes().items()}


def test_no_process_grows(stack: Stack, request: pytest.FixtureRequest, promise: Promise) -> None:
    with httpx.Client(base_url=stack.url, headers=JPEG, timeout=60) as http:
        first = ask(http, photo(480))
    assert first.status == 200
    promise("cold.first_search", first.seconds, "s", at_most=1)

    count, clients = int(request.config.getoption("--requests")), Clients(stack.url)
    pids, log_bytes = stack.processes(), stack.log_bytes()
    clients.send(round(WARM_UP * count))
    before, threads, start_s = at_rest(stack), threads_of(pids), time.monotonic()
    clients.send(count - clients.done)
    rate = (1 - WARM_UP) * count / (time.monotonic() - start_s)
    after = at_rest(stack)

    assert stack.processes() == pids  # nothing died and was started again
    assert {status for is_bad, status in clients.told if not is_bad} == {200}, clients.told
    assert {status for is_bad, status in clients.told if is_bad} <= {415, 422}, clients.told
    promise("leaks.requests", clients.done, "requests", at_least=count)
    promise("leaks.requests_a_second", rate, "per s")
    promise("leaks.threads_more", threads_of(pids) - threads, "threads", at_most=2)
    promise("leaks.log_of_a_request", (stack.log_bytes() - log_bytes) / count, "bytes", at_most=3000)
    for name, rss in after.items():
        promise(f"leaks.{name}_holds", rss / 1e6, "MB")
    grown = {name: (rss / before[name] - 1) * 100 for name, rss in after.items()}
    # The worst last: all are measured before one fails.
    for name, percent in sorted(grown.items(), key=lambda one: one[1]):
        promise(f"leaks.{name}_grew", percent, "%", at_most=MOST_GROWTH)


def threads_of(pids: dict[str, int]) -> int:
    return sum(psutil.Process(pid).num_threads() for pid in pids.values())
