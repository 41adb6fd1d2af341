"""A real TorchServe, started once for all tests on ports that the system chooses, over an index of drawn pictures."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lookalike.archives import ArchiveSources, build_archives
from lookalike.catalogue import read_catalogue
from lookalike.config import IndexSettings
from lookalike.server import ServerProcess, start_server
from lookalike.server_config import ServerFiles, ServerSettings
from tests.e2e.catalogue_drawn import write_catalogue
from tests.e2e.surroundings import HIDDEN_SECRET, ROOT


@pytest.fixture(scope="session")
def index_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn_index(tmp_path_factory.mktemp("drawn"))


def drawn_index(folder: Path) -> Path:
    """Build an index of 36 drawn pictures with the attributes `shape` and `colour`; return its folder."""
    from lookalike.image_embedder import WholeImageEmbedder
    from lookalike.index.edits import IndexEditor

    catalogue, index = folder / "catalogue", folder / "index"
    catalogue.mkdir()
    items, embedder = read_catalogue(write_catalogue(catalogue)), WholeImageEmbedder.load(ROOT / "var/models/embedder")
    assert IndexEditor(index, IndexSettings()).build(items, embedder).manifest.count == 36
    return index


@contextmanager
def own_environment(**variables: str) -> Iterator[None]:
    """Set these variables of Lookalike and no others: what a developer's shell sets is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LOOKALIKE_")]:
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def server(index_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server: `base_url`, `metrics_url`, `management_socket`, `log_file`."""
    files = dataclasses.replace(ServerFiles.of(ROOT), index_dir=index_dir, state=tmp_path_factory.mktemp("server"))
    archives = build_archives(ArchiveSources.of(ROOT), files.archives)
    # test_in_process.py has the other way
    variables = {"LOOKALIKE_ROUTER_INDEX_POLL_S": "0.2", "LOOKALIKE_ROUTER_MODELS": "http", HIDDEN_SECRET: "secret"}
    with (
        own_environment(**variables),
        start_server(archives, files, ServerSettings(port=0, metrics_port=0)) as running,
    ):
        yield running
