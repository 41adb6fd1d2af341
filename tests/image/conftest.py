"""A Docker engine, the image under test, and containers of it that are confined as in production."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.catalogue_drawn import write_catalogue

ROOT = Path(__file__).parents[2]
# As the manifests confine a pod: nothing but its volumes and /tmp can be written, and no process gains rights.
CONFINED = [
    *("--read-only", "--tmpfs", "/tmp:exec,uid=10001,mode=1777"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "4g", "--memory-swap", "4g", "--pids-limit", "512"),
]
READY_S = 90


def docker(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run Docker's client; its exit code and output are the caller's to judge."""
    return subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True)


class Container:
    """A running container; `base_url` is its published port on this machine."""

    def __init__(self, image: str, arguments: list[str], flags: list[str], port: int) -> None:
        started = docker("run", "--detach", *CONFINED, "--publish", f"127.0.0.1::{port}", *flags, image, *arguments)
        assert started.returncode == 0, started.stderr
        self.id = started.stdout.strip()
        self.started_s = time.monotonic()
        published = docker("port", self.id, str(port)).stdout.split()
        self.base_url = f"http://{published[0]}" if published else ""

    def wait_for(self, path: str, status: int = 200) -> float:
        """Wait until a GET of `path` answers `status`; return the seconds since the start."""
        answer = "no answer"
        while time.monotonic() - self.started_s < READY_S:
            try:
                got = httpx.get(self.base_url + path, timeout=10)
                if got.status_code == status:
                    return time.monotonic() - self.started_s
                answer = f"{got.status_code}: {got.text}"
            except httpx.HTTPError as error:
                answer = str(error)
            time.sleep(0.2)
        raise AssertionError(f"{path} did not answer {status}: {answer}\n{self.log()}")

    def log(self) -> str:
        """Return what it has printed, both streams."""
        logs = docker("logs", self.id)
        return logs.stdout + logs.stderr

    def ended(self, within_s: float) -> int:
        """Wait for its end and return its exit code."""
        end_s = time.monotonic() + within_s
        while time.monotonic() < end_s:
            running, code = docker("inspect", "-f", "{{.State.Running}} {{.State.ExitCode}}", self.id).stdout.split()
            if running == "false":
                return int(code)
            time.sleep(0.1)
        raise AssertionError(f"it still runs after {within_s} s\n{self.log()}")


Start = Callable[..., Container]


@pytest.fixture(scope="session")
def image() -> str:
    """The image's name, from `IMAGE`."""
    name = os.environ.get("IMAGE", "lookalike:local")
    found = docker("image", "inspect", name)
    if found.returncode:
        pytest.fail(f"no image {name}: make image\n{found.stderr}")
    return name


@pytest.fixture(scope="session")
def start(image: str) -> Iterator[Start]:
    """Start containers of the image, which are gone at the end."""
    begun: list[Container] = []

    def start_one(*arguments: str, flags: list[str] | None = None, port: int = 8080) -> Container:
        begun.append(Container(image, list(arguments), flags or [], port))
        return begun[-1]

    yield start_one
    for container in begun:
        docker("rm", "--force", container.id)


@pytest.fixture(scope="session")
def run(image: str) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run one command of the image to its end."""
    return lambda *arguments, flags=(): docker("run", "--rm", *CONFINED, *flags, image, *arguments)


@pytest.fixture(scope="session")
def shared(
    run: Callable[..., "subprocess.CompletedProcess[str]"], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders as the volumes of a cluster are: a store, and what the image's own init commands made of it."""
    top = tmp_path_factory.mktemp("volumes")
    top.chmod(0o755)
    folders = {name: top / name for name in ("store", "catalogue", "models", "index")}
    for folder in folders.values():
        folder.mkdir()
    write_catalogue(folders["catalogue"])
    subprocess.run(
        ["lookalike", "models", "push", folders["store"] / "models/1"],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        check=True,
    )
    for folder in top.rglob("*"):
        shutil.chown(folder, 10001, 10001)
    for folder in folders.values():
        shutil.chown(folder, 10001, 10001)
    mounts = [flag for name, folder in folders.items() for flag in ("--volume", f"{folder}:/{name}")]
    for command in (
        "models pull /store/models/1 --to /models",
        "index shard /catalogue/catalogue.jsonl --to /store/index --build first --count 1 --index 0 --publish"
        " --model /models/embedder.mar",
        "index pull /store/index --models /models",
    ):
        done = run(*command.split(), flags=mounts)
        assert done.returncode == 0, done.stdout + done.stderr
    return folders


@pytest.fixture(scope="session")
def volumes(shared: dict[str, Path]) -> list[str]:
    """Flags that mount models and index, read-only."""
    return [flag for name in ("models", "index") for flag in ("--volume", f"{shared[name]}:/{name}:ro")]
