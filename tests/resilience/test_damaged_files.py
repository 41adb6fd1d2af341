"""Any file of an index version that was altered or cut is refused by name, and the version before goes on."""

import random
import shutil
from pathlib import Path

import pytest

from lookalike.config import IndexSettings
from lookalike.errors import IndexDamaged
from lookalike.index.edits import IndexEditor
from lookalike.index.layout import IndexLayout
from lookalike.index.live import LiveIndex
from lookalike.index.verify import verify_snapshot
from tests.colour_embedder import ColourEmbedder, catalogue_of
from tests.resilience.promises import Promise

TRIES = 6


def flipped(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content))]


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_any_flipped_bit_and_any_cut_is_refused_by_name(tmp_path: Path, kind: str, promise: Promise) -> None:
    index_dir, chance = tmp_path / "index", random.Random(f"damage to {kind}")
    settings = IndexSettings.load({"kind": kind, "hnsw_m": 4, "ef_construction": 8})
    first = IndexEditor(index_dir, settings).build(catalogue_of(tmp_path, 20), ColourEmbedder()).manifest.version
    second = IndexEditor(index_dir, settings).build(catalogue_of(tmp_path, 30), ColourEmbedder()).manifest.version
    folder, whole = IndexLayout(index_dir).version_dir(second), tmp_path / "whole"
    shutil.copytree(folder, whole)
    tried = refused = kept = 0
    for path in sorted(whole.iterdir()):
        for damage in (flipped, cut) * TRIES:
            IndexLayout(index_dir).point_to(first)
            shutil.copytree(whole, folder, dirs_exist_ok=True)
            verify_snapshot(folder)
            with LiveIndex(index_dir, poll_s=60) as live:
                (folder / path.name).write_bytes(damage(path.read_bytes(), chance))
                IndexLayout(index_dir).point_to(second)
                live.refresh()
                tried += 1
                kept += live.current().info.version == first
                problem = live.problem
                refused += isinstance(problem, IndexDamaged) and second in problem.message
    promise(f"damage.{kind}_refused_by_name", refused / tried, "of 1", at_least=1)
    promise(f"damage.{kind}_version_before_goes_on", kept / tried, "of 1", at_least=1)
