"""The systems that are compared: Lookalike as it is served, and each peer with a number of workers."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from benchmarks.peers.errors import PeerFailed
from benchmarks.peers.install import python_of
from benchmarks.peers.load import HEADER_LENGTH, JPEG, Endpoint, closed_loop
from benchmarks.peers.processes import running
from benchmarks.private_server import ROOT, server_of
from lookalike.errors import LookalikeError
from lookalike.server_config import free_ports

HOST = "127.0.0.1"
READY_S, POLL_S = 120.0, 0.1
LAST_LINES = 15


class System(Protocol):
    """Something that is started, searched and stopped."""

    @property
    def name(self) -> str:
        """What its rows in the report are called."""

    def serving(self, photo: bytes) -> AbstractContextManager[Endpoint]:
        """Serve for the length of a `with` block, which begins when a search for `photo` has been answered.

        Raises:
            LookalikeError: when that does not come about.
        """


@dataclass(frozen=True)
class Lookalike:
    """TorchServe with this project's archives and settings, as `make serve` starts it; the index is the benchmark's."""

    index_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)  # environment variables of docs/serving.md

    @property
    def name(self) -> str:
        """See `System.name`."""
        return " ".join(["Lookalike", *(f"{name}={value}" for name, value in self.settings.items())])

    @contextmanager
    def serving(self, photo: bytes) -> Iterator[Endpoint]:
        """See `System.serving`."""
        with _environment_with(self.settings), server_of(self.index_dir, say=lambda _: None) as server:
            endpoint = Endpoint(urlsplit(server.base_url).netloc, "/predictions/search")
            closed_loop(endpoint, [photo], clients=1, searches=1)
            yield endpoint


@dataclass(frozen=True)
class Stack:
    """A peer: the packages that its report names, and how it is searched."""

    packages: tuple[str, ...]
    path: str = "/search"
    headers: Mapping[str, str] = field(default_factory=lambda: JPEG)


# A raw binary request: no header of Triton's own in front of the photo.
_RAW = {"content-type": "application/octet-stream", HEADER_LENGTH: "0"}
STACKS = {
    "fastapi": Stack(("fastapi", "uvicorn")),
    "litserve": Stack(("litserve",)),
    "ray": Stack(("ray",)),
    "bentoml": Stack(("bentoml",)),
    "triton": Stack(("nvidia-pytriton",), "/v2/models/search/infer", _RAW),
}


@dataclass(frozen=True)
class Peer:
    """One stack with the whole chain in each of `workers` processes, each forward pass on `threads` threads."""

    stack: str
    workers: int
    threads: int
    index_dir: Path

    @property
    def name(self) -> str:
        """See `System.name`."""
        return f"{self.stack} {self.workers}x{self.threads}"

    @contextmanager
    def serving(self, photo: bytes) -> Iterator[Endpoint]:
        """See `System.serving`."""
        stack, port, python = STACKS[self.stack], free_ports(HOST, 1)[0], python_of(self.stack)
        endpoint = Endpoint(f"{HOST}:{port}", stack.path, stack.headers)
        with tempfile.TemporaryDirectory() as run_dir:
            command = [str(python), "-m", f"benchmarks.peers.serve_{self.stack}"]
            log_file = Path(run_dir) / "server.log"
            with running(command, self._environment(port, Path(run_dir)), log_file) as process:
                _wait_until_ready(process, endpoint, photo, log_file)
                yield endpoint

    def _environment(self, port: int, run_dir: Path) -> dict[str, str]:
        told = {"HOST": HOST, "PORT": port, "WORKERS": self.workers, "THREADS": self.threads, "RUN_DIR": run_dir}
        told |= {"MODELS": ROOT / "var/models", "INDEX_DIR": self.index_dir}
        return os.environ | {
            **{f"LOOKALIKE_PEER_{name}": str(value) for name, value in told.items()},
            "PYTHONPATH": str(ROOT),
            "HOME": str(run_dir),  # some stacks keep caches and tokens there
            # As lookalike.server_config gives Lookalike's own workers.
            "OMP_NUM_THREADS": str(self.threads),
            "OPENBLAS_NUM_THREADS": str(self.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "MALLOC_ARENA_MAX": "2",
            "PILLOW_BLOCKS_MAX": "4",
        }


@contextmanager
def _environment_with(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= variables
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def _wait_until_ready(process: "subprocess.Popen[bytes]", endpoint: Endpoint, photo: bytes, log_file: Path) -> None:
    end_s = time.monotonic() + READY_S
    while True:
        try:
            closed_loop(endpoint, [photo], clients=1, searches=1)
            return
        except LookalikeError as error:
            ended = process.poll()
            if ended is not None or time.monotonic() > end_s:
                state = f"is not ready after {READY_S:.0f} s: {error}" if ended is None else f"ended with {ended}"
                log = log_file.read_text(errors="replace").splitlines()[-LAST_LINES:]
                raise PeerFailed("\n".join([f"the server {state}", *log])) from error
        time.sleep(POLL_S)
