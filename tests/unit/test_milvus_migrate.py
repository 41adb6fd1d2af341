"""Moving a catalogue between an index folder and Milvus: the same afterwards, also after a kill -9, or not at all."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lookalike.config import IndexSettings
from lookalike.errors import IndexDamaged, IndexMismatch, IndexUnavailable
from lookalike.index.faiss_index import open_index
from lookalike.index.items import ItemRecord
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import Kind
from lookalike.index.milvus.catalogue import MilvusCatalogue
from lookalike.index.milvus.index import MilvusIndex
from lookalike.index.milvus.migrate import Options, folder_to_milvus, milvus_to_folder
from tests.index_samples import COUNT, embeddings_of, files_of, publish, records_of
from tests.milvus_running import catalogue_in

SETTINGS = IndexSettings()
OPTIONS = Options(sample=30)


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[MilvusCatalogue]:
    with catalogue_in(tmp_path) as catalogue:
        yield catalogue


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_there_and_back_is_the_same_byte_by_byte(tmp_path: Path, catalogue: MilvusCatalogue, kind: Kind) -> None:
    source = publish(tmp_path / "source", kind)
    there = folder_to_milvus(source, catalogue, OPTIONS, SETTINGS)
    assert (there.count, there.moved, there.agreement.sample) == (COUNT, COUNT, 30)
    assert catalogue.current() == there.version
    back = milvus_to_folder(catalogue, tmp_path / "back", OPTIONS, SETTINGS)
    assert (back.count, back.moved, back.version) == (COUNT, COUNT, IndexLayout(tmp_path / "back").current_version())
    assert files_of(tmp_path / "back") == files_of(source)
    before, after = (open_index(folder).manifest for folder in (source, tmp_path / "back"))
    assert (after.kind, after.build, after.fingerprint) == (before.kind, before.build, before.fingerprint)


def test_an_empty_catalogue_moves_too(tmp_path: Path, catalogue: MilvusCatalogue) -> None:
    source = publish(tmp_path / "source", count=0)
    assert folder_to_milvus(source, catalogue, OPTIONS, SETTINGS).count == 0
    assert milvus_to_folder(catalogue, tmp_path / "back", OPTIONS, SETTINGS).count == 0


def test_a_second_run_moves_nothing_and_an_edit_makes_a_new_collection(
    tmp_path: Path, catalogue: MilvusCatalogue
) -> None:
    source = publish(tmp_path / "source")
    first = folder_to_milvus(source, catalogue, OPTIONS, SETTINGS)
    again = folder_to_milvus(source, catalogue, OPTIONS, SETTINGS)
    assert (again.version, again.moved, again.there_already) == (first.version, 0, COUNT)
    MilvusIndex(catalogue, first.version).delete(["ü/5"])
    anew = folder_to_milvus(source, catalogue, OPTIONS, SETTINGS)
    assert (anew.moved, catalogue.names()) == (COUNT, [first.version, anew.version])
    assert catalogue.current() == anew.version


def test_another_kind_may_be_asked_for_either_way(tmp_path: Path, catalogue: MilvusCatalogue) -> None:
    source = publish(tmp_path / "source")
    there = folder_to_milvus(source, catalogue, Options("hnsw", sample=10), SETTINGS)
    assert MilvusIndex(catalogue, there.version).info.kind == "hnsw"
    milvus_to_folder(catalogue, tmp_path / "back", Options("ivf", sample=10), SETTINGS)
    assert open_index(tmp_path / "back").info.kind == "ivf"


def test_what_was_changed_in_milvus_comes_back(tmp_path: Path, catalogue: MilvusCatalogue) -> None:
    source = publish(tmp_path / "source")
    index = MilvusIndex(catalogue, folder_to_milvus(source, catalogue, OPTIONS, SETTINGS).version)
    index.delete(["ü/0"])
    new = ItemRecord("new", b"\1" * 32, "new.jpg", attributes={"shape": "round"})
    index.upsert([new], embeddings_of(1))
    back = milvus_to_folder(catalogue, source, OPTIONS, SETTINGS)
    assert (back.count, back.moved) == (COUNT, 1)  # the others' embeddings were in the folder
    published = open_index(source)
    assert published.items.item_ids() == [*(f"ü/{number}" for number in range(1, COUNT)), "new"]
    assert published.items.record("new") == new


def test_another_embedder_is_refused_unless_it_is_asked_for(tmp_path: Path, catalogue: MilvusCatalogue) -> None:
    old = folder_to_milvus(publish(tmp_path / "old"), catalogue, OPTIONS, SETTINGS)
    other = publish(tmp_path / "other", fingerprint="e" * 16)
    with pytest.raises(IndexMismatch, match=r"f{16}.*e{16}.*--new-embedder"):
        folder_to_milvus(other, catalogue, OPTIONS, SETTINGS)
    with pytest.raises(IndexMismatch, match=r"e{16}.*f{16}.*--new-embedder"):
        milvus_to_folder(catalogue, other, OPTIONS, SETTINGS)
    assert catalogue.names() == [old.version]
    new = folder_to_milvus(other, catalogue, Options(new_embedder=True), SETTINGS)
    assert (catalogue.current(), catalogue.previous()) == (new.version, old.version)


@pytest.mark.parametrize(("there", "whole"), [(1, 0), (4, 4), (5, 4), (8, 8), (9, 8), (10, 10)])
def test_a_run_goes_on_after_the_last_whole_batch(
    tmp_path: Path, catalogue: MilvusCatalogue, there: int, whole: int
) -> None:
    catalogue.connection.settings = catalogue.connection.settings.model_copy(update={"batch_items": 4})
    source = publish(tmp_path / "source", count=10)
    manifest = open_index(source).manifest
    index = MilvusIndex(catalogue, catalogue.create(manifest, manifest.version, 10, SETTINGS))
    index.fill(records_of(there), embeddings_of(10)[:there], 0)
    done = folder_to_milvus(source, catalogue, OPTIONS, SETTINGS)
    assert (done.version, done.there_already, done.moved, done.count) == (index.info.version, whole, 10 - whole, 10)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda index: index.delete(["ü/7"]), "holds 599 items; .* holds 600"),
        (lambda index: index.fill(records_of(COUNT), embeddings_of(COUNT)[::-1], 0), "embedding of item"),
        (
            lambda index: index.fill(
                [*records_of(COUNT)[:-1], ItemRecord("x", b"\0" * 32, "")], embeddings_of(COUNT), 0
            ),
            "601",
        ),
    ],
)
def test_a_collection_that_does_not_agree_never_serves(
    tmp_path: Path,
    catalogue: MilvusCatalogue,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[MilvusIndex], object],
    told: str,
) -> None:
    settle = MilvusCatalogue.settle

    def damaged_meanwhile(self: MilvusCatalogue, name: str) -> None:
        damage(MilvusIndex(self, name))
        settle(self, name)

    monkeypatch.setattr(MilvusCatalogue, "settle", damaged_meanwhile)
    with pytest.raises(IndexDamaged, match=told):
        folder_to_milvus(publish(tmp_path / "source"), catalogue, OPTIONS, SETTINGS)
    assert catalogue.current() is None


def test_a_catalogue_that_is_not_there_is_named(tmp_path: Path, catalogue: MilvusCatalogue) -> None:
    with pytest.raises(IndexUnavailable, match=f"no catalogue {catalogue.name} is published"):
        milvus_to_folder(catalogue, tmp_path / "back", OPTIONS, SETTINGS)
    with pytest.raises(IndexUnavailable, match="no index version is published"):
        folder_to_milvus(tmp_path / "nothing", catalogue, OPTIONS, SETTINGS)
    assert not (tmp_path / "back").exists()
