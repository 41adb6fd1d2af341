"""What thousands of requests leave behind: no process of the service grows."""

import concurrent.futures
import io
import random
import statistics
from collections import Counter
from collections.abc import Sequence

import httpx
import psutil
import pytest
from PIL import Image

from lookalike.process_table import server_processes
from tests.e2e.catalogue_drawn import COLOURS, SHAPES, draw
from tests.resilience.killable import Killable
from tests.resilience.promises import Promise

WARM_UP, LOOKS, CLIENTS = 0.3, 20, 4
GROWTH_PERCENT = 2.0
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ENDPOINTS = ("search", "search", "search", "detector", "embedder", "metadata_creator")
GOOD, BAD = {200}, {400, 413, 415, 422}


def bodies() -> list[tuple[bytes, set[int]]]:
    """Pictures of six formats and many sizes, one of twenty cut or no picture at all; each with its statuses."""
    chance, made = random.Random(5), []
    for number in range(120):
        picture = draw(chance.choice(SHAPES), chance.choice(list(COLOURS)), number)
        edge = chance.choice((64, 200, 320, 640, 1024))
        buffer = io.BytesIO()
        picture.resize((edge, round(edge * chance.uniform(0.5, 1.5))), Image.Resampling.BILINEAR).save(
            buffer, chance.choice(FORMATS)
        )
        made.append((buffer.getvalue(), GOOD))
    cut = made[0][0][: len(made[0][0]) // 2]
    return [*made, (cut, BAD | GOOD), (b"", BAD), (b"no picture at all" * 50, BAD), (made[1][0][:30], BAD)] + [
        (bytes(chance.randbytes(2000)), BAD) for _ in range(3)
    ]


def run(url: str, count: int, seed: int) -> Counter[int]:
    """Send `count` requests by `CLIENTS` clients; each must get the status that its body deserves."""
    pictures, wrong = bodies(), []

    def one_client(number: int) -> Counter[int]:
        chance, statuses = random.Random(f"{seed} {number}"), Counter[int]()
        with httpx.Client(timeout=60) as client:
            for _ in range(count // CLIENTS):
                body, expected = chance.choice(pictures)
                path = f"/predictions/{chance.choice(ENDPOINTS)}"
                reply = client.post(url + path, content=body, headers={"content-type": "application/octet-stream"})
                statuses[reply.status_code] += 1
                if reply.status_code not in expected:
                    wrong.append((path, reply.status_code, reply.text[:200]))
        return statuses

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
        counted = sum(clients.map(one_client, range(CLIENTS)), Counter[int]())
    assert wrong == []
    return counted


def resident_mb(killable: Killable) -> dict[str, float]:
    """Return the RSS of the JVM and of each worker, in MB."""
    sizes = {}
    for identity in server_processes(killable.process.run_dir):
        process = psutil.Process(identity.pid)
        name = "jvm" if identity == killable.process.identity else model_of(process.cmdline())
        sizes[name] = process.memory_info().rss / 1e6
    return sizes


def model_of(arguments: Sequence[str]) -> str:
    """Return which worker this is: the number of its socket, as TorchServe counts them."""
    return f"worker_{arguments[arguments.index('--sock-name') + 1].rpartition('.')[2]}"


@pytest.mark.full
def test_thousands_of_mixed_requests_leave_no_memory_behind(
    killable: Killable, request: pytest.FixtureRequest, promise: Promise
) -> None:
    requests = int(request.config.getoption("--requests"))
    run(killable.process.base_url, round(WARM_UP * requests), seed=0)
    counted, looks = Counter[int](), []
    for seed in range(1, LOOKS + 1):
        counted += run(killable.process.base_url, requests // LOOKS, seed)
        looks.append(resident_mb(killable))
    assert len({frozenset(look) for look in looks}) == 1, "a process was started anew"
    promise("memory.requests", counted.total(), "requests")
    promise("memory.refused", counted.total() - counted[200], "bad requests")
    for name in sorted(looks[0]):
        grown = middle(looks[LOOKS // 2 :], name) / middle(looks[: LOOKS // 2], name) - 1
        promise(f"memory.growth_of_{name}", 100 * grown, "%", at_most=GROWTH_PERCENT)


def middle(looks: Sequence[dict[str, float]], name: str) -> float:
    """Return a process's median size: buffers of the requests under way come and go by tens of MB."""
    return statistics.median(look[name] for look in looks)
