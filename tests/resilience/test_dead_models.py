"""Slow and dead model servers: deadlines hold, retries are bounded, a circuit opens, answers name the stage."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from aiohttp import web

from lookalike.batching import golden_image
from lookalike.config import RouterSettings
from lookalike.rows import Reply, Row
from lookalike.search_service import SearchService
from tests.resilience.conftest import Killable

STAGE_MS, OPEN_S, FAILURES = 400.0, 0.5, 3
# On a busy machine a search that fails at once takes longer than the few milliseconds that it costs.
AT_ONCE_S = 0.15

Promise = Callable[[str], None]


class BadServer:
    """A model server that hangs, hangs up or errs, as `does` says; it counts the calls."""

    def __init__(self) -> None:
        self.does, self.calls = "hang", 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    async def _start(self) -> str:
        app = web.Application()
        app.router.add_route("*", "/m", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}/m"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        if self.does == "hang":
            await asyncio.sleep(60)
        if self.does == "hang up":
            assert request.transport is not None
            request.transport.close()
        return web.Response(status=500, text="java.lang.OutOfMemoryError")

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture
def bad() -> Iterator[BadServer]:
    server = BadServer()
    yield server
    server.close()


@pytest.fixture
def router_of(killable: Killable) -> Iterator[Callable[..., SearchService]]:
    """Make routers on the real models and index, but for the addresses that are given."""
    if not killable.process.is_running():
        killable.start_again()
    made: list[SearchService] = []

    def make(**given: str) -> SearchService:
        models = f"{killable.process.base_url}/predictions"
        urls = {"detector_url": "detector", "embedder_url": "embedder", "metadata_url": "metadata_creator"}
        addresses = {name: f"{models}/{model}" for name, model in urls.items()} | given
        service = SearchService(
            RouterSettings(
                index_dir=killable.files.index_dir,
                circuit_failures=FAILURES,
                circuit_open_s=OPEN_S,
                detect_ms=STAGE_MS,
                describe_ms=STAGE_MS,
                describe_from="crop",
                **addresses,  # type: ignore[arg-type]
            )
        )
        made.append(service)
        return service

    yield make
    for service in made:
        service.close()


def search(router: SearchService) -> tuple[Reply, float]:
    begun = time.monotonic()
    (reply,) = router.respond([Row("r", body=golden_image())])
    return reply, time.monotonic() - begun


def message(reply: Reply) -> str:
    return str(json.loads(reply.body)["error"]["message"])


def test_a_detector_that_hangs_costs_its_limit_a_few_times_and_then_nothing(
    router_of: Callable[..., SearchService], bad: BadServer, promise: Promise
) -> None:
    router = router_of(detector_url=bad.url)
    waited = []
    for _ in range(FAILURES):
        reply, seconds = search(router)
        assert (reply.status, reply.code) == (504, "deadline_exceeded") and "'detect'" in message(reply)
        waited.append(seconds)
    assert max(waited) < STAGE_MS / 1000 + 0.5
    spared, asked = [], bad.calls
    for _ in range(5):
        reply, seconds = search(router)
        assert (reply.status, reply.code) == (503, "model_unavailable") and message(reply).startswith("detect:")
        spared.append(seconds)
    assert bad.calls == asked and max(spared) < AT_ONCE_S
    promise(f"{FAILURES} searches waited {max(waited):.2f} s, the next failed after {1000 * max(spared):.0f} ms")


def test_a_router_whose_detector_comes_back_finds_again_after_one_try(
    router_of: Callable[..., SearchService], bad: BadServer, killable: Killable, promise: Promise
) -> None:
    router = router_of(detector_url=bad.url)
    bad.does = "hang up"
    for _ in range(FAILURES + 1):
        assert search(router)[0].status == 503
    endpoint = router._models.detector  # type: ignore[attr-defined]
    endpoint._url = f"{killable.process.base_url}/predictions/detector"  # as when DNS names the new pod
    begun = time.monotonic()
    while search(router)[0].status != 200:
        assert time.monotonic() - begun < 2 * OPEN_S + 2
        time.sleep(0.02)
    promise(f"the first hits came {time.monotonic() - begun:.1f} s after it was back; the pause is {OPEN_S} s")


# What is asked first is the model's card, a GET: such a one aiohttp repeats by itself, too.
@pytest.mark.parametrize(("does", "calls"), [("hang up", 4), ("err", 1)])
def test_a_broken_call_is_repeated_a_bounded_number_of_times_and_an_error_never(
    router_of: Callable[..., SearchService], bad: BadServer, does: str, calls: int
) -> None:
    bad.does = does
    reply, _ = search(router_of(embedder_url=bad.url))
    assert reply.status == 503 and message(reply).startswith("embed:")
    assert "OutOfMemory" not in message(reply)
    assert bad.calls == calls


@pytest.mark.parametrize("does", ["hang", "hang up", "err"])
def test_without_metadata_hits_still_come_and_the_answer_says_what_is_lacking(
    router_of: Callable[..., SearchService], bad: BadServer, does: str
) -> None:
    bad.does = does
    reply, seconds = search(router_of(metadata_url=bad.url))
    body = json.loads(reply.body)
    assert reply.status == 200 and body["hits"] and body["degraded"] == ["describe"] and body.get("attributes") is None
    assert seconds < STAGE_MS / 1000 + 2
