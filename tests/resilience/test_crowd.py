"""More at once than any machine serves: refused at once and told when to come back, and nothing is left of it after."""

import asyncio
import io
import time
from collections import Counter

import httpx
import numpy as np
from PIL import Image

from tests.resilience.killable import Killable
from tests.resilience.load import one_search
from tests.resilience.promises import Promise

SIDE_PX, SERVED_WITHIN_S = 1500, 5.0


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
    assert after.status == 200
    promise("crowd.photos", count, "photos of 1500 px")
    promise("crowd.all_answered_in", seconds, "s")
    promise("crowd.found", counts[200], "searches", at_least=1)
    promise("crowd.next_search", after.seconds, "s", at_most=SERVED_WITHIN_S)
