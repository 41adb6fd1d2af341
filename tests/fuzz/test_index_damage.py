"""A damaged index is refused by a typed error, or is searched: no process falls, and nothing else is raised."""

import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.config import IndexSettings
from lookalike.index.edits import IndexEditor
from tests.colour_embedder import ColourEmbedder, catalogue_of
from tests.e2e.surroundings import ROOT
from tests.fuzz.amount import IN_FULL

CASES = 5000 if IN_FULL else 150
# What a damaged embedding does to a similarity is for `lookalike index verify`: opening reads none of them.
QUIET = ["-W", "ignore::RuntimeWarning"]


@pytest.fixture(scope="module", params=["flat", "hnsw", "ivf"])
def index_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    settings = IndexSettings(kind=request.param, hnsw_m=8)
    IndexEditor(folder / "index", settings).build(catalogue_of(folder, 40), ColourEmbedder())
    return folder / "index"


def test_whatever_is_damaged_is_told_by_a_typed_error(index_dir):
    command = [sys.executable, *QUIET, "-m", "tests.fuzz.index_damager", str(index_dir), "0", str(CASES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"\n{index_dir.parent.name}: {done.stdout.strip()}")
    assert "index_damaged" in done.stdout and "searched" in done.stdout
