"""Measures what a pod of each role needs: memory of the whole server at rest and under load, and the cores it uses.

    python -m benchmarks.role_sizes --clients 4 --requests 80

Each role runs as a container would run it (`lookalike serve --foreground`) and gets photos of 12 MP.
The requests and limits in k8s/ are these figures with room to spare.
"""

import argparse
import concurrent.futures
import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from lookalike.server_config import free_ports

ROLES = {"detector": "detector", "embedder": "embedder", "metadata_creator": "metadata_creator", "": "search"}


def photo() -> bytes:
    """Return a JPEG of 12 MP that does not compress away."""
    noise = np.random.default_rng(0).integers(0, 255, (375, 500, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((4000, 3000)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def processes(pid: int) -> list[psutil.Process]:
    """Return a server and its workers."""
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def memory_mb(pid: int) -> float:
    """Return what the processes hold together, shared pages counted once (PSS)."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return sum(one.memory_full_info().pss for one in processes(pid)) / 1e6
    return 0.0


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that the processes have used."""
    return sum(sum(one.cpu_times()[:2]) for one in processes(pid))


def answers(url: str, data: bytes | None = None) -> bool:
    """Tell whether a request was answered, with an error or without (a search here has no index)."""
    request = urllib.request.Request(url, data, {"content-type": "image/jpeg"} if data else {})
    try:
        with urllib.request.urlopen(request, timeout=60):
            return True
    except urllib.error.HTTPError as error:
        return data is not None or b"index" in error.read()
    except OSError:
        return False


def measure(models: str, endpoint: str, clients: int, requests: int, state: Path) -> str:
    """Run one role under load; return its line of the table."""
    port, metrics_port = free_ports("127.0.0.1", 2)
    variables = {"MODELS": models, "PORT": str(port), "METRICS_PORT": str(metrics_port)}
    environment = os.environ | {f"LOOKALIKE_SERVER_{name}": value for name, value in variables.items()}
    command = [str(Path(sys.executable).parent / "lookalike"), "serve", "--foreground"]
    with (
        (state / f"{endpoint}.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log) as server,
    ):
        try:
            return told(
                server.pid, models or "all", f"http://127.0.0.1:{port}/predictions/{endpoint}", clients, requests
            )
        finally:
            server.send_signal(signal.SIGTERM)


def told(pid: int, role: str, url: str, clients: int, requests: int) -> str:
    """Wait until the server is ready, load it, and return what it took."""
    while not answers(f"{url}/1.0/healthz"):
        time.sleep(0.5)
    rest, peak, stop = memory_mb(pid), [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            peak[0] = max(peak[0], memory_mb(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    body, used, began = photo(), cpu_s(pid), time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        failed = requests - sum(pool.map(lambda _: answers(url, body), range(requests)))
    wall = time.monotonic() - began
    cores = (cpu_s(pid) - used) / wall
    stop.set()
    watcher.join()
    return f"| {role} | {rest:.0f} | {peak[0]:.0f} | {cores:.2f} | {requests / wall:.1f} | {failed} |"


def main() -> None:
    """Print a table of all roles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--requests", type=int, default=80)
    arguments = parser.parse_args()
    state = Path("var/role_sizes")
    state.mkdir(parents=True, exist_ok=True)
    print("| role | MB at rest | MB at most | cores busy | requests/s | unanswered |\n|---|---:|---:|---:|---:|---:|")
    for models, endpoint in ROLES.items():
        print(measure(models, endpoint, arguments.clients, arguments.requests, state), flush=True)


if __name__ == "__main__":
    main()
