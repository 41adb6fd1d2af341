"""Thousands of requests of every kind: no process grows."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from statistics import median

import httpx
import psutil
import pytest

from tests.resilience.promises import Promise
from tests.resilience.real_stack import JPEG, Stack, ask, photo, running_stack

pytestmark = pytest.mark.full
CLIENTS, SAMPLE_S = 6, 0.5
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
    """Send so many requests from several threads."""

    def __init__(self, stack: Stack, count: int) -> None:
        self._url, self._left = stack.url, iter(range(count))
        self._pictures = pictures()
        self._bad = bad_bodies(self._pictures[0])
        self._lock = threading.Lock()
        self.done, self.told = 0, Counter[tuple[bool, int]]()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(CLIENTS)]

    def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        with httpx.Client(base_url=self._url, headers={"content-type": "application/octet-stream"}, timeout=60) as http:
            while True:
                with self._lock:
                    if next(self._left, None) is None:
                        return
                bad = chance.random() < BAD
                body = chance.choice(self._bad if bad else self._pictures)
                one = ask(http, body, f"/predictions/{chance.choice(MODELS)}")
                with self._lock:
                    self.done += 1
                    self.told[bad, one.status] += 1

    def __iter__(self) -> Iterator[int]:
        """Run them; yield now and then how many requests are done."""
        for thread in self._threads:
            thread.start()
        while any(thread.is_alive() for thread in self._threads):
            yield self.done
            time.sleep(SAMPLE_S)


def test_no_process_grows(stack: Stack, request: pytest.FixtureRequest, promise: Promise) -> None:
    count = int(request.config.getoption("--requests"))
    processes = {name: psutil.Process(pid) for name, pid in stack.processes().items()}
    samples: dict[str, list[tuple[int, int]]] = {name: [] for name in processes}
    with httpx.Client(base_url=stack.url, headers=JPEG) as http:
        first = ask(http, photo(480))
    assert first.status == 200
    promise("cold.first_search", first.seconds, "s", at_most=1)
    clients, start_s, log_bytes = Clients(stack, count), time.monotonic(), stack.log_bytes()
    threads = 0
    for done in clients:
        if done < WARM_UP * count:
            threads = sum(process.num_threads() for process in processes.values())
        for name, process in processes.items():
            samples[name].append((done, process.memory_info().rss))
    seconds = time.monotonic() - start_s
    good = {status for is_bad, status in clients.told if not is_bad}
    bad = {status for is_bad, status in clients.told if is_bad}
    assert good == {200}, clients.told
    assert bad <= {415, 422}, clients.told
    promise("leaks.requests", clients.done, "requests", at_least=count)
    promise("leaks.requests_a_second", clients.done / seconds, "per s")
    now = sum(process.num_threads() for process in processes.values())
    promise("leaks.threads_more", now - threads, "threads", at_most=2)
    promise("leaks.log_of_a_request", (stack.log_bytes() - log_bytes) / count, "bytes", at_most=3000)
    grown = {name: growth_percent(kept, count) for name, kept in samples.items()}
    for name, kept in samples.items():
        promise(f"leaks.{name}_holds", kept[-1][1] / 1e6, "MB")
    # The worst last: all are measured before one fails.
    for name, percent in sorted(grown.items(), key=lambda one: one[1]):
        promise(f"leaks.{name}_grew", percent, "%", at_most=MOST_GROWTH)


def growth_percent(kept: list[tuple[int, int]], count: int) -> float:
    """Return by how many percent the last tenth of the requests lies above the tenth after the warm-up."""
    before = median(rss for done, rss in kept if WARM_UP * count <= done < (WARM_UP + 0.1) * count)
    after = median(rss for done, rss in kept if done >= 0.9 * count)
    return (after / before - 1) * 100
