"""A TorchServe of one's own for a measurement: real archives, an index of made-up items, a folder that vanishes."""

import dataclasses
import http.client
import json
import tempfile
from collections.abc import Iterator, Mapping
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


@contextmanager
def private_server(items: int = ITEMS) -> Iterator[tuple[ServerProcess, Path]]:
    """Serve the built models over a flat index of so many items on free ports; yield the server and the index folder.

    Raises:
        SetupError: a model is not built, or the server cannot start.
        NotReady: it does not become ready.
    """
    with tempfile.TemporaryDirectory() as temporary:
        index_dir = Path(temporary) / "index"
        embedder = read_built_model(ROOT / "var/models/embedder")
        build(index_dir, "flat", items, embedder.dim or 0, embedder.fingerprint)
        files = dataclasses.replace(ServerFiles.of(ROOT), index_dir=index_dir, state=Path(temporary))
        archives = build_archives(ArchiveSources.of(ROOT), files.archives)
        with start_server(archives, files, ServerSettings(port=0, metrics_port=0)) as server:
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
