from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lookalike.config import IndexSettings
from lookalike.errors import IndexDamaged, IndexMismatch, IndexUnavailable
from lookalike.index.durable import sha256_of
from lookalike.index.edits import IndexEditor
from lookalike.index.faiss_index import open_index
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import MANIFEST, FileEntry, Manifest, read_manifest
from lookalike.index.verify import verify_snapshot
from tests.colour_embedder import ColourEmbedder, catalogue_of

FILES = ["vectors.npy", "items.arrow", "hnsw.faiss", "ivf.faiss"]


@pytest.fixture
def index_dir(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    settings = IndexSettings(kind="ivf" if "ivf.faiss" in request.node.name else "hnsw", hnsw_m=8)
    IndexEditor(tmp_path / "index", settings).build(catalogue_of(tmp_path, 40), ColourEmbedder())
    return tmp_path / "index"


def published(index_dir: Path) -> Path:
    return IndexLayout(index_dir).published_dir()


def rewrite_manifest(index_dir: Path, change: Callable[[Manifest], dict[str, object]]) -> None:
    """Put a consistent manifest with other values in place: what another program may have written."""
    folder = published(index_dir)
    manifest = read_manifest(folder)
    changed = manifest.model_copy(update=change(manifest)).named(1)
    (folder / MANIFEST).write_text(changed.model_dump_json())
    folder.rename(folder.with_name(changed.version))
    IndexLayout(index_dir).point_to(changed.version)


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_is_refused_by_name(index_dir: Path, name: str) -> None:
    path = published(index_dir) / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(IndexDamaged, match=f"{name} has"):
        open_index(index_dir)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_refused_by_name(index_dir: Path, name: str) -> None:
    (published(index_dir) / name).unlink()
    with pytest.raises(IndexDamaged, match=name):
        open_index(index_dir)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.3, 0.6, 0.95])
def test_one_altered_byte_is_found_by_verify(index_dir: Path, name: str, place: float) -> None:
    path = published(index_dir) / name
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(IndexDamaged, match=f"{name} was altered"):
        verify_snapshot(published(index_dir))


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_zeros_is_refused_when_it_is_opened(index_dir: Path, name: str) -> None:
    path = published(index_dir) / name
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(IndexDamaged, match=name):
        open_index(index_dir)


def test_embeddings_that_are_not_normalised_are_found_by_verify(index_dir: Path) -> None:
    path = published(index_dir) / "vectors.npy"
    np.save(path, np.load(path) * 2)
    entry = FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
    rewrite_manifest(index_dir, lambda manifest: {"files": {**manifest.files, "vectors.npy": entry}})
    with pytest.raises(IndexDamaged, match=r"row 0 has the length 2\.0000 instead of 1"):
        verify_snapshot(published(index_dir))


def test_a_whole_version_passes(index_dir: Path) -> None:
    assert verify_snapshot(published(index_dir)).manifest.count == 40


def test_another_embedder_is_refused_and_both_are_named(index_dir: Path) -> None:
    with pytest.raises(IndexMismatch) as refused:
        open_index(index_dir, expect_fingerprint="e" * 16)
    assert ColourEmbedder().fingerprint in refused.value.message and "e" * 16 in refused.value.message


def test_another_metric_is_refused_and_both_are_named(index_dir: Path) -> None:
    rewrite_manifest(index_dir, lambda manifest: {"metric": "l2"})
    with pytest.raises(IndexMismatch, match="was built for l2 on float32; this program searches by cosine on float32"):
        open_index(index_dir)


@pytest.mark.parametrize("change", [{"dim": 47}, {"count": 39}])
def test_a_shape_that_is_not_the_manifests_is_refused(index_dir: Path, change: dict[str, object]) -> None:
    rewrite_manifest(index_dir, lambda manifest: change)
    with pytest.raises(IndexDamaged, match="the manifest says"):
        open_index(index_dir)


def test_an_index_folder_without_a_version_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(IndexUnavailable, match="lookalike index build"):
        open_index(tmp_path)


def test_a_current_file_with_other_content_is_damaged(index_dir: Path) -> None:
    (index_dir / "CURRENT").write_bytes(b"../../etc\xff")
    with pytest.raises(IndexDamaged, match="which is no version name"):
        open_index(index_dir)


def test_a_current_file_that_names_a_missing_version_is_damaged(index_dir: Path) -> None:
    (index_dir / "CURRENT").write_text("000009-00000000\n")
    with pytest.raises(IndexDamaged, match="000009-00000000 is not in"):
        open_index(index_dir)
