"""More at once than any machine serves: refused at once and told when to come back, and nothing is left of it after."""

import asyncio
import io
import time
from collections import Counter
from collections.abc import Callable

import httpx
import numpy as np
from PIL import Image

from tests.resilience.conftest import Killable
from tests.resilience.load import one_search, wait_for_health

SIDE_PX, SERVED_WITHIN_S = 1500, 5.0

Promise = Callable[[str], None]


def photo() -> bytes:
    """A photo of 1500 x 1500 px with some detail, as a camera gives it."""
    chance = np.random.default_rng(7)
    small = Image.fromarray(chance.integers(0, 255, (150, 150, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


async def crowd(url: str, body: bytes, count: int) -> list[httpx.Response | httpx.HTTPError]:
    """Send all at the same moment, each over a connection of its own."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=120, limits=limits) as client:

        async def one() -> httpx.Response | httpx.HTTPError:
            try:
                return await client.post(url, content=body, headers={"content-type": "image/jpeg"})
            except httpx.HTTPError as error:
                return error

        return list(await asyncio.gather(*(one() for _ in range(count))))


def test_a_crowd_is_answered_or_sent_away_and_the_next_is_served(
    killable: Killable, full: bool, promise: Promise
) -> None:
    if not killable.process.is_running():
        killable.start_again()
    wait_for_health(killable.gateway_url, True, 60)
    body, count = photo(), 1000 if full else 100
    begun = time.monotonic()
    replies = asyncio.run(crowd(f"{killable.gateway_url}/predictions/search", body, count))
    seconds = time.monotonic() - begun
    broken = [reply for reply in replies if not isinstance(reply, httpx.Response)]
    assert not broken, Counter(type(error).__name__ for error in broken)
    answers = [reply for reply in replies if isinstance(reply, httpx.Response)]
    counts = Counter(reply.status_code for reply in answers)
    assert set(counts) <= {200, 429, 503} and counts[200]
    refused = [reply for reply in answers if reply.status_code != 200]
    assert all(int(reply.headers["retry-after"]) > 0 and reply.json()["error"]["code"] for reply in refused)
    with httpx.Client(timeout=30) as client:
        after = one_search(client, killable.gateway_url, body)
    assert after.status == 200 and after.seconds <= SERVED_WITHIN_S
    told = ", ".join(f"{number} x {status}" for status, number in sorted(counts.items()))
    promise(f"{count} photos of {len(body) // 1000} kB in {seconds:.0f} s: {told}; the next took {after.seconds:.2f} s")
