"""A real TorchServe, started once for all tests on ports that the system chooses, over an index of drawn pictures."""

import dataclasses
import os
from collections.abc import Iterator
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
    """An index of 36 drawn pictures with the attributes `shape` and `colour`."""
    from lookalike.image_embedder import WholeImageEmbedder
    from lookalike.index.edits import IndexEditor

    catalogue = read_catalogue(write_catalogue(tmp_path_factory.mktemp("catalogue")))
    index = tmp_path_factory.mktemp("index")
    edit = IndexEditor(index, IndexSettings()).build(catalogue, WholeImageEmbedder.load(ROOT / "var/models/embedder"))
    assert edit.manifest.count == 36
    return index


@pytest.fixture(scope="session")
def server(index_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server: `base_url`, `metrics_url`, `management_socket`, `log_file`."""
    files = dataclasses.replace(ServerFiles.of(ROOT), index_dir=index_dir, state=tmp_path_factory.mktemp("server"))
    archives = build_archives(ArchiveSources.of(ROOT), files.archives)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LOOKALIKE_")]:
            patch.delenv(name)  # what a developer's shell sets is not what is tested
        patch.setenv("LOOKALIKE_ROUTER_INDEX_POLL_S", "0.2")
        patch.setenv("LOOKALIKE_ROUTER_MODELS", "http")  # test_in_process.py has the other way
        patch.setenv(HIDDEN_SECRET, "secret")
        with start_server(archives, files, ServerSettings(port=0, metrics_port=0)) as running:
            yield running
