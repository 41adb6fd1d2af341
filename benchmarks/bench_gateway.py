"""What the gateway adds to a request: the same request to TorchServe and through the gateway, in turns, one client.

Run:
    python -m benchmarks.bench_gateway                    # a private server, and `lookalike web` before it
    python -m benchmarks.bench_gateway --rounds 400 --budget-ms 3

Exits with 1 when the median of the pairs' differences is above the budget for one of the requests.
"""

import argparse
import http.client
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.command import exit_status, positive, positive_count
from benchmarks.hardware import load_average
from benchmarks.private_server import ROOT, connect, private_server
from lookalike.errors import LookalikeError, NotReady
from lookalike.gateway.keys import new_key
from lookalike.server_config import free_ports

BUDGET_MS = 3.0
_WARM_UP = 60
_START_S = 60


@dataclass(frozen=True)
class Case:
    """One request that is sent both ways."""

    name: str
    method: str
    path: str
    body: bytes = b""


def cases() -> list[Case]:
    """Return a request without a body, a crop, and a photo: what grows with the body shows."""
    return [
        Case("info", "GET", "/predictions/search/1.0/info"),
        Case("embed a crop", "POST", "/predictions/embedder", _photo(448, 336)),
        Case("search a photo", "POST", "/predictions/search", _photo(1200, 900)),
        Case("search 12 MP", "POST", "/predictions/search", _photo(4000, 3000, quality=93)),
    ]


def _photo(width: int, height: int, quality: int = 85) -> bytes:
    """Return a JPEG with about as much detail as a photo has: noise of a coarse and of a fine grain."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
    fine = random.integers(-9, 10, (height, width, 1))
    pixels = np.clip(np.asarray(coarse, np.int16) + fine, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@contextmanager
def gateway_before(upstream_url: str) -> Iterator[tuple[http.client.HTTPConnection, dict[str, str]]]:
    """Run `lookalike web` in a process of its own, with a key to check as in production; yield a client, its headers.

    Raises:
        NotReady: it does not start.
    """
    (port,) = free_ports("127.0.0.1", 1)
    secret, key = new_key("bench", "read")
    settings = {
        "LOOKALIKE_GATEWAY_UPSTREAM_URL": upstream_url,
        "LOOKALIKE_GATEWAY_KEYS": f'["{key.entry()}"]',
        "LOOKALIKE_GATEWAY_RATE": "1000000/second",
    }
    command = [sys.executable, "-m", "lookalike.cli", "web", "--root", str(ROOT), "--port", str(port)]
    with subprocess.Popen(command, env=os.environ | settings, stderr=subprocess.DEVNULL) as process:
        try:
            client = http.client.HTTPConnection("127.0.0.1", port)
            _wait_for(client)
            yield client, {"x-api-key": secret}
        finally:
            process.terminate()


def _wait_for(client: http.client.HTTPConnection) -> None:
    until_s = time.monotonic() + _START_S
    while time.monotonic() < until_s:
        try:
            client.request("GET", "/livez")
            client.getresponse().read()
            return
        except OSError:
            client.close()
            time.sleep(0.1)
    raise NotReady("the gateway does not start")


def sent_ms(client: http.client.HTTPConnection, case: Case, headers: dict[str, str]) -> float:
    """Return the milliseconds that one request takes; raises LookalikeError unless it is answered with 200."""
    start_s = time.perf_counter()
    client.request(case.method, case.path, case.body or None, {"content-type": "image/jpeg", **headers})
    reply = client.getresponse()
    reply.read()
    elapsed_ms = (time.perf_counter() - start_s) * 1000
    if reply.status != http.HTTPStatus.OK:
        raise LookalikeError(f"{case.name} was answered with {reply.status}")
    return elapsed_ms


def measure(
    direct: http.client.HTTPConnection,
    through: http.client.HTTPConnection,
    headers: dict[str, str],
    case: Case,
    rounds: int,
) -> np.ndarray:
    """Return `(rounds, 2)` ms: direct and through the gateway, the first of a pair in turns."""
    for _ in range(_WARM_UP // 4):
        sent_ms(direct, case, {})
        sent_ms(through, case, headers)
    pairs = np.empty((rounds, 2))
    for row in range(rounds):
        for way in (0, 1) if row % 2 else (1, 0):
            pairs[row, way] = sent_ms(through, case, headers) if way else sent_ms(direct, case, {})
    return pairs


def report(case: Case, pairs: np.ndarray) -> float:
    """Print one line; return the median of the differences in ms."""
    added = pairs[:, 1] - pairs[:, 0]
    columns = [f"{np.percentile(values, q):7.2f}" for values in (pairs[:, 0], pairs[:, 1], added) for q in (50, 95)]
    print(f"{case.name:16} {len(case.body) / 1000:7.0f} kB  " + "  ".join(columns))
    return float(np.median(added))


def run(rounds: int, budget_ms: float) -> int:
    """Measure every case; return the exit status."""
    print(f"load average {load_average()}; ms, p50 and p95 of {rounds} pairs")
    print(f"{'':16} {'body':>10}  {'direct':>16}  {'gateway':>16}  {'added':>16}")
    with private_server() as (server, _), gateway_before(server.base_url) as (through, headers):
        direct = connect(server)
        added = [report(case, measure(direct, through, headers, case, rounds)) for case in cases()]
    over = [f"{case.name} {ms:.2f} ms" for case, ms in zip(cases(), added, strict=True) if ms > budget_ms]
    print(
        f"above the budget of {budget_ms:g} ms: {', '.join(over)}" if over else f"within the budget of {budget_ms:g} ms"
    )
    return 1 if over else 0


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive_count, default=200, help="pairs of each request")
    parser.add_argument("--budget-ms", type=positive, default=BUDGET_MS, help="for the median of what is added")
    arguments = parser.parse_args()
    return exit_status(lambda: run(arguments.rounds, arguments.budget_ms))


if __name__ == "__main__":
    sys.exit(main())
