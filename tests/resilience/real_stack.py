"""The real thing: TorchServe with real models, the gateway in a process of its own, clients that never stop."""

import dataclasses
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image

from lookalike.archives import ArchiveSources, build_archives
from lookalike.process_table import ProcessId
from lookalike.server import ServerProcess, start_server
from lookalike.server_config import ServerFiles, ServerSettings, free_ports
from tests.e2e.surroundings import ROOT, management
from tests.served import drawn_index, own_environment

JPEG = {"content-type": "image/jpeg"}


def photo(edge_px: int, seed: int = 0, kind: str = "JPEG") -> bytes:
    """Return a picture with the detail of a photo: it compresses to as many bytes as one."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 256, (edge_px // 16 + 1, edge_px // 16 + 1, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((edge_px, edge_px), Image.Resampling.BICUBIC)
    grain = chance.normal(0, 6, (edge_px, edge_px, 1))
    pixels = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@dataclass
class Stack:
    """A server and the gateway before it."""

    files: ServerFiles
    settings: ServerSettings
    archives: dict[str, Path]
    server: ServerProcess
    gateway: "subprocess.Popen[bytes]"
    url: str  # where clients ask

    def start_again(self) -> None:
        """Start the server anew at the same address, as a restart policy does."""
        self.server = start_server(self.archives, self.files, self.settings, say=lambda told: None)

    def worker_pids(self, model: str) -> list[int]:
        """Return the workers of a model that run now."""
        _, told = management(self.server, "GET", f"/models/{model}")
        return [worker["pid"] for worker in told[0]["workers"] if worker["pid"] > 0]

    def log_bytes(self) -> int:
        """Return how much was logged so far by all of them."""
        return sum(path.stat().st_size for path in self.files.state.rglob("*") if path.is_file())

    def processes(self) -> dict[str, int]:
        """Return every process by what it does: the JVM, each model's worker, the gateway."""
        workers = {model: self.worker_pids(model)[0] for model in self.archives}
        return {"JVM": self.server.identity.pid, **workers, "gateway": self.gateway.pid}


@contextmanager
def running_stack(folder: Path, **gateway: str) -> Iterator[Stack]:
    """Run server and gateway; `gateway` are settings of the gateway, as its environment has them."""
    index_dir = drawn_index(folder)
    files = dataclasses.replace(ServerFiles.of(ROOT), index_dir=index_dir, state=folder / "state")
    archives = build_archives(ArchiveSources.of(ROOT), files.archives)
    port, metrics_port, gateway_port = free_ports("127.0.0.1", 3)
    settings = ServerSettings(port=port, metrics_port=metrics_port, ready_s=300)
    told = {"upstream_url": f"http://127.0.0.1:{port}", "index_dir": str(index_dir), "rate": "", **gateway}
    variables = {f"LOOKALIKE_GATEWAY_{name.upper()}": value for name, value in told.items()}
    with own_environment(LOOKALIKE_ROUTER_MODELS="http", **variables):
        server = start_server(archives, files, settings, say=lambda told: None)
        with ended(server) as servers, gateway_process(gateway_port, files.state / "gateway.log") as process:
            stack = Stack(files, settings, archives, server, process, f"http://127.0.0.1:{gateway_port}")
            try:
                yield stack
            finally:
                servers.append(stack.server)


@contextmanager
def ended(first: ServerProcess) -> Iterator[list[ServerProcess]]:
    """Stop every server that is put into the list."""
    servers = [first]
    try:
        yield servers
    finally:
        for server in servers:
            server.stop()


@contextmanager
def gateway_process(port: int, log_file: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `lookalike web` until the end of the block."""
    command = [sys.executable, "-m", "lookalike.cli", "web", "--root", str(ROOT), "--port", str(port)]
    with log_file.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            end_s = time.monotonic() + 60
            while not answers(f"http://127.0.0.1:{port}/livez"):
                assert process.poll() is None and time.monotonic() < end_s, log_file.read_text()
                time.sleep(0.05)
            yield process
        finally:
            process.terminate()
            process.wait(60)


def answers(url: str) -> bool:
    """Tell whether a URL answers 200."""
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def kill(pid: int) -> None:
    """kill -9 this very process."""
    process = ProcessId.of(pid)
    if process is not None:
        process.send(signal.SIGKILL)


class Asked(NamedTuple):
    """One request: when it began, how long it took, and what came; status 0: no answer at all."""

    start_s: float
    seconds: float
    status: int
    code: str


@dataclass
class Load:
    """Clients that search without a pause; a context manager."""

    url: str
    deadline_ms: int
    clients: int = 4
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._search, args=(n,), daemon=True) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a client hangs"

    def _search(self, seed: int) -> None:
        body, headers = photo(480, seed), {**JPEG, "x-lookalike-deadline-ms": str(self.deadline_ms)}
        with httpx.Client(base_url=self.url, headers=headers, timeout=45) as client:
            while not self._stopped.is_set():
                one = ask(client, body)
                self.asked.append(one)
                if one.status != 200:
                    self._stopped.wait(0.1)  # as a client that was told when to come back, if a hasty one


def ask(client: httpx.Client, body: bytes, path: str = "/predictions/search") -> Asked:
    """Post an image; return what came of it."""
    start_s = time.monotonic()
    try:
        reply = client.post(path, content=body)
        status, code = reply.status_code, "" if reply.status_code == 200 else error_code(reply.content)
    except httpx.HTTPError as error:
        status, code = 0, repr(error)
    return Asked(start_s, time.monotonic() - start_s, status, code)


def error_code(body: bytes) -> str:
    """Return the code of a typed error; empty where it is none."""
    try:
        told: Any = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return ""
    return str(told)


@dataclass
class Watch:
    """Asks for readiness again and again, as a probe does; a context manager."""

    url: str
    seen: list[tuple[float, bool]] = field(default_factory=list)  # when an answer came, and whether it was yes

    def __enter__(self) -> "Watch":
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(60)

    def _look(self) -> None:
        with httpx.Client(base_url=self.url, timeout=6) as client:
            while not self._stopped.wait(0.2):
                try:
                    ready = client.get("/healthz").status_code == 200
                except httpx.HTTPError:
                    ready = False
                self.seen.append((time.monotonic(), ready))

    def first(self, ready: bool, after_s: float, within_s: float) -> float:
        """Wait for the first such answer after a moment; return the seconds from that moment; fails when none comes."""
        while time.monotonic() < after_s + within_s + 1:
            for at_s, told in list(self.seen):
                if told is ready and at_s >= after_s:
                    return at_s - after_s
            time.sleep(0.05)
        pytest.fail(f"readiness was never {'yes' if ready else 'no'} within {within_s:.0f} s")
