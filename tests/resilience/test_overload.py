"""A thousand photos at once: each is answered or told when to come back, none by a 500; and it is over in a moment."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import aiohttp
import pytest

from tests.resilience.promises import Promise
from tests.resilience.real_stack import JPEG, Stack, photo, running_stack

pytestmark = pytest.mark.full
COUNT, EDGE_PX = 1000, 1500
LONGEST_S = 120


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("overload")) as stack:
        yield stack


class Told(NamedTuple):
    """An answer; status 0: none."""

    status: int
    retry_after: str | None
    error: str = ""


async def search(session: aiohttp.ClientSession, url: str, body: bytes) -> Told:
    try:
        async with session.post(f"{url}/predictions/search", data=body, headers=JPEG) as reply:
            await reply.read()
            return Told(reply.status, reply.headers.get("retry-after"))
    except (aiohttp.ClientError, TimeoutError) as error:
        return Told(0, None, type(error).__name__)


async def all_at_once(url: str, bodies: list[bytes]) -> list[Told]:
    timeout = aiohttp.ClientTimeout(total=LONGEST_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        return await asyncio.gather(*(search(session, url, bodies[n % len(bodies)]) for n in range(COUNT)))


async def seconds_until_a_search_succeeds(url: str) -> float:
    start_s = time.monotonic()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        while (await search(session, url, photo(480))).status != 200:
            assert time.monotonic() - start_s < 60
            await asyncio.sleep(0.1)
    return time.monotonic() - start_s


async def test_through_the_gateway_every_photo_is_answered_or_told_when_to_come_back(
    stack: Stack, promise: Promise
) -> None:
    bodies = [photo(EDGE_PX, seed) for seed in range(8)]
    told = await all_at_once(stack.url, bodies)
    after_s = await seconds_until_a_search_succeeds(stack.url)
    counts = Counter(one.status for one in told)
    without = [one for one in told if one.status in (429, 503) and not one.retry_after]
    promise("overload.searched", counts[200], "of 1000", at_least=1)
    promise("overload.told_to_come_back", counts[429] + counts[503], "of 1000")
    promise("overload.without_retry_after", len(without), "of 1000", at_most=0)
    promise("overload.unanswered", counts[0], "of 1000", at_most=0)
    others = sum(count for status, count in counts.items() if status not in (0, 200, 429, 503))
    promise("overload.answers_of_another_kind", others, "of 1000", at_most=0)
    promise("overload.a_search_succeeds_after", after_s, "s", at_most=5)


async def test_what_torchserve_alone_does_is_known(stack: Stack, promise: Promise) -> None:
    """It never faces clients (docs/serving.md); what would become of them is measured, and promised is its return."""
    bodies = [photo(EDGE_PX, seed) for seed in range(8)]
    told = await all_at_once(stack.server.base_url, bodies)
    counts = Counter(one.status for one in told)
    alive = stack.server.is_running()
    if not alive:
        stack.start_again()
    after_s = await seconds_until_a_search_succeeds(stack.server.base_url)
    promise("torchserve_alone.searched", counts[200], "of 1000")
    promise("torchserve_alone.refused_503", counts[503], "of 1000")
    without = sum(one.status == 503 and not one.retry_after for one in told)
    promise("torchserve_alone.503_without_retry_after", without, "of 1000")
    promise("torchserve_alone.unanswered", counts[0], "of 1000")
    others = sum(count for status, count in counts.items() if status not in (0, 200, 503))
    promise("torchserve_alone.answers_of_another_kind", others, "of 1000")
    promise("torchserve_alone.survives", int(alive), "of 1")
    promise("torchserve_alone.a_search_succeeds_after", after_s, "s", at_most=60)
