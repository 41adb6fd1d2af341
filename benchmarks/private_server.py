"""A TorchServe of one's own for a measurement: real archives, an index of made-up items, a folder that vanishes."""

import dataclasses
import http.client
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.bench_index_load import build
from lookalike.archives import ArchiveSources, build_archives
from lookalike.errors import LookalikeError
from lookalike.model_store import read_built_model
from lookalike.process_table import server_processes
from lookalike.server import ServerProcess, start_server
from lookalike.server_config import ServerFiles, ServerSettings

ROOT = Path(__file__).parents[1]
ITEMS = 10_000
WARM_UP = 150  # searches: the JVM compiles its hot paths first


def index_for_built_embedder(items: int, index_dir: Path) -> None:
    """Publish a flat index of so many made-up items for the built embedder.

    Raises:
        SetupError: it is not built.
    """
    embedder = read_built_model(ROOT / "var/models/embedder")
    build(index_dir, "flat", items, embedder.dim or 0, embedder.fingerprint)


@contextmanager
def server_of(index_dir: Path, say: Callable[[str], None] = print) -> Iterator[ServerProcess]:
    """Serve the built models over an index on free ports, with settings as `make serve` has them.

    Raises:
        SetupError: a model is not built, or the server cannot start.
        NotReady: it does not become ready.
    """
    with tempfile.TemporaryDirectory() as state:
        files = dataclasses.replace(ServerFiles.of(ROOT), index_dir=index_dir, state=Path(state))
        archives = build_archives(ArchiveSources.of(ROOT), files.archives)
        with start_server(archives, files, ServerSettings(port=0, metrics_port=0), say=say) as server:
            yield server


@contextmanager
def private_server(items: int = ITEMS) -> Iterator[tuple[ServerProcess, Path]]:
    """Serve an index of so many made-up items; yield the server and the index folder. Raises as `server_of`."""
    with tempfile.TemporaryDirectory() as temporary:
        index_dir = Path(temporary) / "index"
        index_for_built_embedder(items, index_dir)
        with server_of(index_dir) as server:
            yield server, index_dir


def worker_rss_mb(server: ServerProcess) -> dict[int, float]:
    """Return the resident memory of each worker of the server, by pid."""
    workers = [process.pid for process in server_processes(server.run_dir) if process != server.identity]
    page_mb = 4096 / 1e6
    return {pid: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page_mb for pid in workers}


def connect(server: ServerProcess) -> http.client.HTTPConnection:
    """Return one keep-alive connection; the standard library's client adds the least of its own to a measured time."""
    return http.client.HTTPConnection(urlsplit(server.base_url).netloc)


def search_over(
    client: http.client.HTTPConnection, photo: bytes, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Send one photo to the search router and return its answer.

    Raises:
        LookalikeError: it is not 200: what is measured then is no search.
    """
    sent = {"content-type": "image/jpeg", **(headers or {})}
    client.request("POST", "/predictions/search", photo, sent)
    with client.getresponse() as reply:
        answer: dict[str, Any] = json.loads(reply.read())
    if reply.status != http.HTTPStatus.OK:
        raise LookalikeError(f"the search answered {reply.status}: {answer}")
    return answer
