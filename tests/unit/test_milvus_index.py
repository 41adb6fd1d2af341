"""What a collection in Milvus promises besides a search: writes that are seen, a manifest that is checked, an alias."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lookalike.catalogue import Catalogue, Item
from lookalike.config import MilvusSettings
from lookalike.errors import IndexDamaged, IndexMismatch, IndexUnavailable, InvalidOption, SetupError
from lookalike.index.items import ItemRecord
from lookalike.index.manifest import BuildSettings
from lookalike.index.milvus.catalogue import MilvusCatalogue
from lookalike.index.milvus.connection import MilvusConnection
from lookalike.index.milvus.edits import Added, add_items
from lookalike.index.milvus.index import MilvusIndex
from lookalike.index.milvus.rows import expression_of, record_of, row_of
from lookalike.ingest import IngestOptions
from tests.colour_embedder import ColourEmbedder, catalogue_of
from tests.milvus_running import catalogue_in, filled, manifest_of

DIM = 16


def record(name: str, **attributes: str) -> ItemRecord:
    return ItemRecord(name, hashlib.sha256(name.encode()).digest(), f"/{name}.jpg", attributes=attributes)


def embeddings_of(count: int, seed: int = 0) -> NDArray[np.float32]:
    made = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusCatalogue]:
    with catalogue_in(tmp_path_factory.mktemp("milvus")) as catalogue:
        yield catalogue


@pytest.fixture
def index(catalogue: MilvusCatalogue) -> MilvusIndex:
    records = [record(f"item {number}", colour="red" if number % 2 else "blue") for number in range(20)]
    return filled(catalogue, manifest_of("flat", DIM), embeddings_of(20), records)


def ids(index: MilvusIndex, query: NDArray[np.float32], **options: object) -> list[str]:
    (hits,) = index.search(query[None], 3, **options)  # type: ignore[arg-type]
    return [hit.item_id for hit in hits]


def test_what_is_written_and_deleted_is_seen_at_once(index: MilvusIndex) -> None:
    new = embeddings_of(1, seed=9)
    for turn in range(5):
        index.upsert([record("new", turn=str(turn))], new)
        assert (ids(index, new[0])[0], index.info.count) == ("new", 21)
        assert ids(index, new[0], filters={"turn": [str(turn)]}) == ["new"]
        assert index.delete(["new", "unheard of"]) == ["unheard of"]
        assert "new" not in ids(index, new[0])
        assert index.info.count == 20


def test_an_item_that_is_written_again_takes_its_own_place(index: MilvusIndex) -> None:
    moved = embeddings_of(2, seed=8)
    index.upsert([record("item 3", size="1"), record("item 3", size="2")], moved)
    assert index.info.count == 20
    np.testing.assert_array_equal(index.embeddings_of(["item 3"]), moved[1:])
    assert index.records_of(["item 3"])["item 3"].attributes == {"size": "2"}


def test_items_are_listed_in_their_order_and_new_ones_last(index: MilvusIndex) -> None:
    index.upsert([record("a new one")], embeddings_of(1, seed=7))
    listed = sorted(item for batch in index.records(batch=6) for item in batch)
    assert [found.item_id for _, found in listed] == [*(f"item {number}" for number in range(20)), "a new one"]


def test_another_process_s_new_attribute_is_known(index: MilvusIndex, catalogue: MilvusCatalogue) -> None:
    query = embeddings_of(1)[0]
    other = MilvusIndex(catalogue, index.info.version)
    index.upsert([record("big", size="=L\"'\\\n")], query[None])
    assert ids(other, query, filters={"size": ["=L\"'\\\n"]}) == ["big"]
    with pytest.raises(InvalidOption, match="shape"):
        other.search(query[None], 3, {"shape": ["round"]})


@pytest.mark.parametrize(
    "name", ["a=b", 'quo"te', "back\\slash", "größe", "tab\t", "line\nbreak", "a\\=b", "and or in ["]
)
def test_no_name_or_value_of_an_attribute_is_taken_for_another(index: MilvusIndex, name: str) -> None:
    query = embeddings_of(3, seed=6)
    names = sorted({name, "a", "a=b", "b"})
    index.upsert(
        [record("one", **{name: "c"}), record("two", a="b=c"), record("three", **{"a=b": "d", "b": name})], query
    )
    assert set(ids(index, query[0], filters={name: ["c"]})) == {"one"}
    assert ids(index, query[1], filters={"a": ["b=c"]}) == ["two"]
    assert ids(index, query[2], filters={"b": [name]}) == ["three"]
    assert set(names) <= set(index.manifest.attributes)


def test_an_item_is_the_same_after_a_row() -> None:
    items = [record("ü", **{"a=b": "c"}), ItemRecord("x", b"\0" * 32, "", "", "", {}), ItemRecord("y", b"\1" * 32, "p")]
    assert [record_of(row_of(item, np.zeros(DIM, np.float32), 0)) for item in items] == items


@pytest.mark.parametrize(
    "item", [record("x" * 65_536), record("x", **{f"a{n}": "" for n in range(5000)}), record("x", a="b" * 65_600)]
)
def test_an_item_too_large_for_a_row_is_refused_by_name(item: ItemRecord) -> None:
    with pytest.raises(InvalidOption, match="item 'x"):
        row_of(item, np.zeros(DIM, np.float32), 0)


def test_a_filter_without_values_is_no_expression() -> None:
    assert expression_of({"a": []}, ["a"]) is None
    assert expression_of(None, []) == ""


def test_more_hits_than_milvus_gives_are_refused(index: MilvusIndex) -> None:
    with pytest.raises(InvalidOption, match="top_k is 16385"):
        index.search(embeddings_of(1), 16_385)


def test_the_alias_switches_and_who_holds_the_old_collection_goes_on(tmp_path: Path) -> None:
    with catalogue_in(tmp_path) as catalogue:
        with pytest.raises(IndexUnavailable, match="no catalogue"):
            catalogue.serving()
        old = filled(catalogue, manifest_of("flat", DIM), embeddings_of(5), [record(f"old {n}") for n in range(5)])
        with pytest.raises(IndexDamaged, match=r"not whole: its state is building"):
            catalogue.switch_to(old.info.version)
        catalogue.mark_ready(old.info.version)
        catalogue.switch_to(old.info.version)
        assert (catalogue.current(), catalogue.previous()) == (old.info.version, None)

        manifest = manifest_of("flat", DIM, fingerprint="e" * 16)
        new = filled(catalogue, manifest, embeddings_of(5), [record(f"new {n}") for n in range(5)])
        assert catalogue.current() == old.info.version  # built beside it
        catalogue.mark_ready(new.info.version)
        catalogue.switch_to(new.info.version)
        assert (catalogue.current(), catalogue.previous()) == (new.info.version, old.info.version)
        assert ids(old, embeddings_of(1)[0])[0] == "old 0"
        for name, alias in ((new.info.version, catalogue.name), (old.info.version, catalogue.previous_alias)):
            with pytest.raises(SetupError, match=f"serves as {alias}"):
                catalogue.drop(name)
        assert catalogue.retire_previous() == old.info.version
        catalogue.drop(old.info.version)
        assert catalogue.names() == [new.info.version]
        with pytest.raises(IndexUnavailable, match="failed while"):
            old.search(embeddings_of(1), 3)


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        ({"lookalike.format": "2"}, IndexDamaged, "has format 2, which is newer than this program"),
        ({"lookalike.format": ""}, IndexDamaged, "was not made by Lookalike"),
        ({"lookalike.manifest": '{"version": 1}'}, IndexDamaged, "its manifest is wrong: .*fingerprint"),
        ({"lookalike.manifest": "{"}, IndexDamaged, "its manifest is wrong"),
        ({"lookalike.attributes": "["}, IndexDamaged, "its manifest is wrong"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused_by_name(
    catalogue: MilvusCatalogue, index: MilvusIndex, changed: dict[str, str], error: type[Exception], told: str
) -> None:
    catalogue.connection.client.alter_collection_properties(index.info.version, changed)
    with pytest.raises(error, match=told) as refused:
        MilvusIndex(catalogue, index.info.version)
    assert index.info.version in str(refused.value)


@pytest.mark.parametrize(("field", "value"), [("metric", "euclidean"), ("dim", 17)])
def test_another_metric_or_dim_is_refused(
    catalogue: MilvusCatalogue, index: MilvusIndex, field: str, value: object
) -> None:
    wrong = index.manifest.model_copy(update={field: value, "attributes": []}).model_dump_json(exclude={"attributes"})
    catalogue.connection.client.alter_collection_properties(index.info.version, {"lookalike.manifest": wrong})
    with pytest.raises(IndexMismatch, match=str(value)):
        MilvusIndex(catalogue, index.info.version)


def test_a_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(IndexUnavailable, match=r"Milvus at http://127\.0\.0\.1:9 failed while connecting"):
        MilvusConnection(MilvusSettings(uri="http://127.0.0.1:9", timeout_s=0.5))


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(SetupError, match=r"'somewhere' is no address of Milvus"):
        MilvusConnection(MilvusSettings(uri="somewhere"))


def test_the_token_is_not_told() -> None:
    assert "secret" not in repr(MilvusSettings(token="user:secret"))


def test_images_are_embedded_and_put_in_and_an_image_that_is_there_is_no_second_item(tmp_path: Path) -> None:
    embedder = ColourEmbedder()
    manifest = manifest_of("flat", embedder.dim, embedder.fingerprint, BuildSettings(preparation=embedder.preparation))
    with catalogue_in(tmp_path) as catalogue:
        index = filled(catalogue, manifest, np.zeros((0, embedder.dim), np.float32), [])

        def add(count: int, first: int = 0) -> Added:
            images = catalogue_of(tmp_path / "images", count, first)
            return add_items(index, images, embedder, tmp_path / "work", IngestOptions(), chunk_items=2)

        first = add(5)
        assert (first.added, first.replaced, first.problems, index.info.count) == (5, 0, [], 5)
        item = catalogue_of(tmp_path / "images", 1, 3).items[0]
        with Image.open(item.path) as image:
            (hits,) = index.search(embedder.embed(embedder.prepare(image)[None]), 1)
        assert hits[0].item_id == item.item_id
        again = add(7)
        assert (again.added, again.replaced, index.info.count) == (2, 0, 7)
        assert list((tmp_path / "work").glob("*/*.npy")) == []
        copy = Item("a copy", item.path, None, None, {})
        duplicate = add_items(index, Catalogue("copies", [copy], 0), embedder, tmp_path / "work", IngestOptions(), 2)
        assert [problem.kind for problem in duplicate.problems] == ["duplicate"]
        assert index.info.count == 7
        with pytest.raises(IndexMismatch, match="cannot add to it"):
            add_items(index, Catalogue("x", [copy], 0), ColourEmbedder("d" * 16), tmp_path, IngestOptions(), 2)
