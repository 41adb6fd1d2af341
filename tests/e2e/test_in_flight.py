"""The autoscalers' signal on a real server: the rate of its latency counter is how many requests are in flight."""

import concurrent.futures
import io
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.server_config import free_ports

CLIENTS, SECONDS = 4, 8.0
LATENCY = re.compile(r'^ts_inference_latency_microseconds\{.*model_name="detector".*\} ([\d.eE+]+)$', re.M)


def get(url: str, body: bytes | None = None) -> bytes:
    headers = {"content-type": "image/jpeg"} if body else {}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as response:
        return bytes(response.read())


@pytest.fixture
def server():
    port, metrics_port = free_ports("127.0.0.1", 2)
    chosen = {"MODELS": "detector", "PORT": str(port), "METRICS_PORT": str(metrics_port)}
    environment = os.environ | {f"LOOKALIKE_SERVER_{name}": value for name, value in chosen.items()}
    command = [str(Path(sys.executable).parent / "lookalike"), "serve", "--foreground"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}/predictions/detector"
        try:
            for _ in range(240):
                try:
                    get(f"{url}/1.0/healthz")
                    break
                except OSError:
                    time.sleep(0.5)
            yield url, f"http://127.0.0.1:{metrics_port}/metrics"
        finally:
            process.send_signal(signal.SIGTERM)


def test_the_rate_of_the_latency_counter_is_the_number_of_requests_in_flight(server) -> None:
    url, metrics = server
    buffer = io.BytesIO()
    Image.fromarray(np.full((480, 320, 3), 90, np.uint8)).save(buffer, "JPEG")
    before, began = float(LATENCY.search(get(metrics).decode())[1]), time.monotonic()

    def one_client(_: int) -> int:
        done = 0
        while time.monotonic() - began < SECONDS:
            get(url, buffer.getvalue())
            done += 1
        return done

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        assert sum(pool.map(one_client, range(CLIENTS))) > CLIENTS
    in_flight = (float(LATENCY.search(get(metrics).decode())[1]) - before) / 1e6 / (time.monotonic() - began)
    # Most of them wait in the queue, as one worker takes them one by one; a client's own share of the time is small.
    assert 0.6 * CLIENTS < in_flight <= 1.05 * CLIENTS, in_flight
