"""The open loop on a real HTTP server that is deliberately slow: the schedule is kept, and latency counts from it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from benchmarks.arrivals import OpenSample, Probe, highest_rate, offer, poisson_schedule, probe
from benchmarks.budgets import OpenLoopBudget
from benchmarks.open_loop import of_kinds, sender
from benchmarks.photos import Photo
from lookalike.errors import SetupError

PHOTOS = [Photo("small", b"x" * 10, "image/jpeg", weight=3), Photo("large", b"x" * 1000, "image/png", weight=1)]


@asynccontextmanager
async def one_at_a_time(service_s: float, status: int = 200) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """Serve one request after the other, each for `service_s`; yield the URL and what came."""
    turn, came = asyncio.Lock(), []

    async def answer(request: web.Request) -> web.Response:
        came.append(request)
        await request.read()
        async with turn:
            await asyncio.sleep(service_s)
        return web.Response(status=status)

    app = web.Application()
    app.router.add_post("/predictions/search", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}/predictions/search", came
    finally:
        await runner.cleanup()


def test_the_schedule_is_seeded_and_poisson() -> None:
    schedule = poisson_schedule(50, 20_000, np.random.default_rng(3))
    assert np.array_equal(schedule, poisson_schedule(50, 20_000, np.random.default_rng(3)))
    gaps = np.diff(schedule, prepend=0)
    assert gaps.min() > 0
    # Exponential gaps: mean and standard deviation are both 1/rate, and e^-1 of them are longer than it.
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.03)
    assert (gaps > 1 / 50).mean() == pytest.approx(np.exp(-1), rel=0.03)


async def test_a_slow_server_does_not_slow_the_schedule_and_the_queue_is_in_the_latency() -> None:
    schedule = [0.01 * i for i in range(20)]
    async with one_at_a_time(0.05) as (url, came), aiohttp.ClientSession() as session:
        samples = await offer(schedule, sender(session, url, PHOTOS, Random(0)))
    assert len(came) == 20
    assert [sample.scheduled_s for sample in samples] == schedule
    assert not any(sample.error for sample in samples)
    # In whatever order they came, the answers are 50 ms apart, and latency counts from the schedule.
    ends_ms = sorted(1000 * sample.scheduled_s + sample.latency_ms for sample in samples)
    assert all(end_ms >= 50 * (i + 1) - 1 for i, end_ms in enumerate(ends_ms))
    # Who waits for answers before sending more would send the last one after 950 ms.
    assert samples[-1].sent_s < 0.9


async def test_what_the_sender_is_held_up_counts_as_latency() -> None:
    async def send(i: int) -> str | None:
        if i == 0:
            time.sleep(0.3)  # the whole process stands still
        return None

    samples = await offer([0.0, 0.05, 0.1], send)
    assert [sample.sent_s >= 0.3 for sample in samples] == [False, True, True]
    assert samples[1].latency_ms >= 245
    assert samples[2].latency_ms >= 195


async def test_photos_are_drawn_by_weight_and_failures_are_told() -> None:
    async with one_at_a_time(0, status=503) as (url, came), aiohttp.ClientSession() as session:
        send = sender(session, url, PHOTOS, Random(0))
        assert [await send(i) for i in range(40)] == ["status 503"] * 40
        types = [request.content_type for request in came]
        assert 20 < types.count("image/jpeg") < 40
    async with aiohttp.ClientSession() as session:
        gone = sender(session, url, PHOTOS, Random(0))
        assert await gone(0) == "ClientConnectorError"


async def test_a_probe_leaves_the_warm_up_out_and_keeps_as_many_as_it_should() -> None:
    async def send(_: int) -> str | None:
        return None

    given = await probe(400, 50, 0.25, send, np.random.default_rng(0))
    assert len(given.samples) == 50
    assert min(sample.scheduled_s for sample in given.samples) >= 0.25


def test_errors_and_slow_answers_each_miss_the_budget() -> None:
    budget = OpenLoopBudget(p99_ms=100, error_share=0)
    good, slow, bad = OpenSample(0, 0, 50), OpenSample(0, 0, 200), OpenSample(0, 0, 1, "status 503")
    assert Probe(1, [good] * 200).meets(budget)
    assert not Probe(1, [good] * 195 + [slow] * 5).meets(budget)
    assert not Probe(1, [good] * 199 + [bad]).meets(budget)
    assert not Probe(1, [bad] * 200).meets(budget)


async def test_the_highest_rate_is_bracketed_and_bisected() -> None:
    tried = []

    async def holds(rate: float) -> bool:
        tried.append(rate)
        return rate <= 7.3

    for start in (1, 4, 100):
        found = await highest_rate(holds, start, 0.05)
        assert found is not None
        assert 7.3 / 1.05 <= found <= 7.3
        assert found in tried
    assert await highest_rate(holds, 200, 0.05) is None  # a 16th of it still misses


async def test_the_capacity_of_a_real_server_is_found() -> None:
    """5 ms one at a time: 200 a second at the very most, and less where p99 has a budget."""
    budget, random = OpenLoopBudget(p99_ms=60, error_share=0), np.random.default_rng(0)
    async with one_at_a_time(0.005) as (url, _), aiohttp.ClientSession() as session:
        send = sender(session, url, PHOTOS, Random(0))

        async def holds(rate: float) -> bool:
            return (await probe(rate, 120, 0.1, send, random)).meets(budget)

        found = await highest_rate(holds, 50, 0.3)
    assert found is not None
    assert 25 <= found < 220


def test_kinds_that_no_photo_has_are_named() -> None:
    assert of_kinds(PHOTOS, []) == PHOTOS
    assert of_kinds(PHOTOS, ["large"]) == PHOTOS[1:]
    with pytest.raises(SetupError, match="no photos of kind huge"):
        of_kinds(PHOTOS, ["huge", "large"])
