import resource
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.config import IndexSettings
from lookalike.errors import IndexBusy, IndexDamaged, SetupError
from lookalike.index.edits import IndexEditor
from lookalike.index.layout import IndexLayout
from lookalike.index.verify import verify_snapshot
from lookalike.index.writer import IndexWriter
from tests.colour_embedder import ColourEmbedder, catalogue_of

# Prints when it holds the lock, and holds it until its stdin is closed.
HOLDER = """
import sys
from pathlib import Path
from lookalike.index.writer import IndexWriter
with IndexWriter(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def build(index_dir: Path, count: int, **settings: object) -> str:
    editor = IndexEditor(index_dir, IndexSettings(**settings))  # type: ignore[arg-type]
    return editor.build(catalogue_of(index_dir.parent, count), ColourEmbedder()).manifest.version


def test_a_second_writer_is_told_who_is_writing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(IndexBusy, match=f"is being written by process {holder.pid}"), IndexWriter(tmp_path):
            pass
        holder.communicate()
    with IndexWriter(tmp_path):
        pass


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    index_dir = tmp_path / "index"
    version = build(index_dir, 3)
    leftover = index_dir / "versions" / ".tmp-4711"
    leftover.mkdir()
    (leftover / "vectors.npy").write_bytes(b"half")
    with IndexWriter(index_dir):
        pass
    assert [path.name for path in (index_dir / "versions").iterdir()] == [version]


def test_the_last_versions_stay_and_the_one_in_use_always(tmp_path: Path) -> None:
    index_dir = tmp_path / "index"
    versions = [build(index_dir, count, keep_versions=2) for count in (3, 4, 5)]
    assert IndexLayout(index_dir).version_names() == versions[1:]
    with IndexWriter(index_dir) as writer:
        writer.use(versions[1])
    newer = [build(index_dir, count, keep_versions=1) for count in (6, 7)]
    assert IndexLayout(index_dir).version_names() == newer[1:]


def test_versions_sort_by_their_number(tmp_path: Path) -> None:
    index_dir = tmp_path / "index"
    first, second = build(index_dir, 3), build(index_dir, 4)
    assert (first[:7], second[:7]) == ("000001-", "000002-")


def test_an_older_version_can_be_published_again(tmp_path: Path) -> None:
    index_dir = tmp_path / "index"
    first, _ = build(index_dir, 3), build(index_dir, 4)
    with IndexWriter(index_dir) as writer:
        writer.use(first)
    assert IndexLayout(index_dir).current_version() == first
    assert build(index_dir, 5).startswith("000003-")


def test_a_version_that_is_not_there_or_not_whole_is_not_published_again(tmp_path: Path) -> None:
    index_dir = tmp_path / "index"
    first, second = build(index_dir, 3), build(index_dir, 4)
    (index_dir / "versions" / first / "vectors.npy").write_bytes(b"")
    with IndexWriter(index_dir) as writer:
        for version in (first, "000009-00000000"):
            with pytest.raises(IndexDamaged):
                writer.use(version)
    assert IndexLayout(index_dir).current_version() == second


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
@pytest.mark.usefixtures("file_size_limit")
def test_a_full_disk_is_named_and_the_old_version_stays(tmp_path: Path, kind: str) -> None:
    index_dir = tmp_path / "index"
    version = build(index_dir, 20, kind=kind, chunk_items=20, hnsw_m=4)
    with pytest.raises(SetupError, match=r"no space left to write under .*the published version stays in use"):
        build(index_dir, 300, kind=kind, chunk_items=20)
    assert IndexLayout(index_dir).version_names() == [version]
    assert verify_snapshot(IndexLayout(index_dir).published_dir()).manifest.count == 20
    assert not list((index_dir / "versions").glob(".tmp-*"))


def test_embeddings_survive_a_full_disk(tmp_path: Path, file_size_limit: None) -> None:
    with pytest.raises(SetupError):
        build(tmp_path / "index", 300, chunk_items=20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    embedder = ColourEmbedder()
    IndexEditor(tmp_path / "index", IndexSettings()).build(catalogue_of(tmp_path, 300), embedder)
    assert embedder.embedded == 0
