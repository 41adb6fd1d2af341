"""A TorchServe with all models that may be killed and started again at its port, and the gateway before it."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lookalike.archives import ArchiveSources, build_archives
from lookalike.catalogue import read_catalogue
from lookalike.config import IndexSettings
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.index.edits import IndexEditor
from lookalike.server import ServerProcess, start_server
from lookalike.server_config import ServerFiles, ServerSettings, free_ports
from tests.e2e.catalogue_drawn import write_catalogue
from tests.gateway_running import running_gateway
from tests.resilience.load import wait_for_health
from tests.resilience.promises import ROOT

READY_WITHIN_S = 60.0


@dataclasses.dataclass
class Killable:
    """The server and where its gateway answers."""

    files: ServerFiles
    archives: dict[str, Path]
    settings: ServerSettings
    gateway_url: str
    process: ServerProcess

    def start_again(self) -> None:
        """Do what Kubernetes does when a pod's container has ended."""
        self.process.stop()
        self.process = start_server(self.archives, self.files, self.settings)

    def make_whole(self) -> None:
        """Wait until it can answer a search; start it again where a test before this one has ended it."""
        if not self.process.is_running():
            self.start_again()
        wait_for_health(self.gateway_url, True, READY_WITHIN_S)


@contextmanager
def running_killable(folder: Path) -> Iterator[Killable]:
    """Run one, its files and its index of 36 drawn pictures in `folder`."""
    (folder / "catalogue").mkdir()
    catalogue = read_catalogue(write_catalogue(folder / "catalogue"))
    embedder = WholeImageEmbedder.load(ROOT / "var/models/embedder")
    IndexEditor(folder / "index", IndexSettings()).build(catalogue, embedder)
    files = dataclasses.replace(ServerFiles.of(ROOT), index_dir=folder / "index", state=folder / "state")
    archives = build_archives(ArchiveSources.of(ROOT), files.archives)
    port, metrics_port = free_ports("127.0.0.1", 2)
    settings = ServerSettings(port=port, metrics_port=metrics_port)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LOOKALIKE_")]:
            patch.delenv(name)
        patch.setenv("LOOKALIKE_ROUTER_MODELS", "http")
        process = start_server(archives, files, settings)
        upstream = f"http://127.0.0.1:{port}"
        with running_gateway(upstream_url=upstream, rate="", health_cache_s=0.1, max_in_flight_per_client=32) as url:
            running = Killable(files, archives, settings, url, process)
            yield running
        running.process.stop()
