"""An open loop: requests leave when a Poisson schedule says so, whatever the server does; latency counts from then."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.budgets import OpenLoopBudget
from benchmarks.samples import percentiles_ms

# Sends request number `i`; returns what went wrong, None where nothing did.
Send = Callable[[int], Awaitable[str | None]]


@dataclass(frozen=True)
class OpenSample:
    """One request. Seconds count from the schedule's start; the latency from `scheduled_s`, however late it was sent.

    A clock that starts at `sent_s` leaves out what a client waits when the sender itself is held up ("coordinated
    omission", G. Tene, How NOT to Measure Latency).
    """

    scheduled_s: float
    sent_s: float
    latency_ms: float
    error: str | None = None


@dataclass(frozen=True)
class Probe:
    """What one rate gave."""

    rate_per_s: float
    samples: list[OpenSample]

    @property
    def error_share(self) -> float:
        """The share of requests that failed."""
        return sum(sample.error is not None for sample in self.samples) / len(self.samples)

    @property
    def figures_ms(self) -> dict[str, float]:
        """p50, p95 and p99 of those that succeeded."""
        return percentiles_ms([sample.latency_ms for sample in self.samples if sample.error is None])

    @property
    def late_p99_ms(self) -> float:
        """How late the sender itself was: a part of the latencies that is not the server's."""
        return float(np.percentile([(sample.sent_s - sample.scheduled_s) * 1000 for sample in self.samples], 99))

    def meets(self, budget: OpenLoopBudget) -> bool:
        """Tell whether the budget was met."""
        return self.error_share <= budget.error_share and self.figures_ms["p99_ms"] <= budget.p99_ms


def poisson_schedule(rate_per_s: float, count: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return `(count,)` float64 ascending seconds: arrivals of clients that know nothing of each other."""
    return np.cumsum(random.exponential(1 / rate_per_s, count))


async def offer(schedule: Sequence[float] | NDArray[np.float64], send: Send) -> list[OpenSample]:
    """Send request `i` at `schedule[i]`, or as soon after as can be; return all samples, in the order of the schedule.

    However many are under way, the next one leaves: clients that know nothing of each other do not wait.
    """
    loop = asyncio.get_running_loop()
    start_s = loop.time()

    async def request(i: int, scheduled_s: float) -> OpenSample:
        sent_s = loop.time() - start_s
        error = await send(i)
        return OpenSample(scheduled_s, sent_s, (loop.time() - start_s - scheduled_s) * 1000, error)

    requests = []
    async with asyncio.TaskGroup() as under_way:
        for i, scheduled_s in enumerate(map(float, schedule)):
            await asyncio.sleep(start_s + scheduled_s - loop.time())
            requests.append(under_way.create_task(request(i, scheduled_s)))
    return [request.result() for request in requests]


async def probe(rate_per_s: float, count: int, warm_up_s: float, send: Send, random: np.random.Generator) -> Probe:
    """Offer a rate: `count` requests that are kept, after `warm_up_s` seconds of such that are not."""
    # At least `count` after the warm-up, unless the arrivals in it are six standard deviations above their mean.
    in_warm_up = rate_per_s * warm_up_s
    schedule = poisson_schedule(rate_per_s, count + int(in_warm_up + 6 * in_warm_up**0.5) + 1, random)
    first = int(np.searchsorted(schedule, warm_up_s))
    return Probe(rate_per_s, (await offer(schedule[: first + count], send))[first:])


async def highest_rate(
    try_rate: Callable[[float], Awaitable[bool]], start_per_s: float, precision: float
) -> float | None:
    """Return the highest rate that meets the budget, to a relative `precision`.

    The rate is doubled, or halved, until one meets and the other misses; then the bracket is bisected. None when even
    a 16th of the start misses.
    """
    low, high = 0.0, 0.0
    rate = start_per_s
    while not (low and high):
        if await try_rate(rate):
            low, rate = rate, rate * 2
        else:
            high, rate = rate, rate / 2
            if rate < start_per_s / 16:
                return None
    while high / low > 1 + precision:
        middle = (low + high) / 2
        if await try_rate(middle):
            low = middle
        else:
            high = middle
    return low
