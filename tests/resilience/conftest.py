"""What the promises are tested on: a TorchServe that may be killed, a gateway before it, figures that are kept."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
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
from tests.e2e.surroundings import ROOT
from tests.gateway_running import running_gateway
from tests.resilience.promises import Figures, write_page

FIGURES = pytest.StashKey[Figures]()
Promise = Callable[[str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every promise at its full size; writes docs/promises.md")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = {}


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == 0 and session.config.getoption("--full", False) and session.config.stash[FIGURES]:
        write_page(ROOT, session.config.stash[FIGURES])


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether to test at full size: `make resilience`, not `make test`."""
    return bool(pytestconfig.getoption("--full", False))


@pytest.fixture
def promise(request: pytest.FixtureRequest) -> Promise:
    """Keep and print the figure that a promise was held with."""

    def keep(figure: str) -> None:
        request.config.stash.setdefault(FIGURES, {})[request.node.nodeid] = figure
        sys.stdout.write(f"\n{request.node.nodeid}: {figure}\n")

    return keep


@dataclasses.dataclass
class Killable:
    """A TorchServe with all models that can be started again at its port, and the gateway before it."""

    files: ServerFiles
    archives: dict[str, Path]
    settings: ServerSettings
    gateway_url: str
    process: ServerProcess

    def start_again(self) -> None:
        """Do what Kubernetes does when a pod's container has ended."""
        self.process.stop()
        self.process = start_server(self.archives, self.files, self.settings)


@pytest.fixture(scope="session")
def killable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killable]:
    folder = tmp_path_factory.mktemp("killable")
    catalogue = read_catalogue(write_catalogue(tmp_path_factory.mktemp("catalogue")))
    IndexEditor(folder / "index", IndexSettings()).build(
        catalogue, WholeImageEmbedder.load(ROOT / "var/models/embedder")
    )
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
