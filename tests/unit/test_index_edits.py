import json
from dataclasses import replace
from pathlib import Path

import pytest

from lookalike.catalogue import Catalogue, Item
from lookalike.config import IndexSettings
from lookalike.errors import IndexMismatch, IndexUnavailable, SetupError
from lookalike.index.edits import IndexEditor
from lookalike.index.faiss_index import open_index
from lookalike.index.layout import IndexLayout
from lookalike.index.verify import verify_snapshot
from lookalike.ingest import IngestOptions
from tests.colour_embedder import ColourEmbedder, catalogue_of, save_picture

SETTINGS = IndexSettings(chunk_items=8)


def ids_in(index_dir: Path) -> list[str]:
    snapshot = verify_snapshot(IndexLayout(index_dir).published_dir())
    return snapshot.items.item_ids()


def editor(index_dir: Path, **options: object) -> IndexEditor:
    return IndexEditor(index_dir, SETTINGS, IngestOptions(**options))  # type: ignore[arg-type]


def test_a_build_publishes_a_whole_version(tmp_path: Path) -> None:
    edit = editor(tmp_path / "index").build(catalogue_of(tmp_path, 20), ColourEmbedder())
    assert (edit.published, edit.added, edit.embedded) == (True, 20, 20)
    assert ids_in(tmp_path / "index") == [f"item-{number}" for number in range(20)]
    assert edit.manifest.attributes == ["parity", "tenth"]


def test_the_items_keep_what_the_catalogue_says_of_them(tmp_path: Path) -> None:
    item = Item("Ü 1/ä", save_picture(tmp_path / "a.png", 1), "Titel", "http://x/ü", {"farbe": "grün"})
    editor(tmp_path / "index").build(Catalogue(tmp_path, [item]), ColourEmbedder())
    record = open_index(tmp_path / "index").items.record("Ü 1/ä")
    assert record is not None
    assert (record.title, record.url, record.attributes) == ("Titel", "http://x/ü", {"farbe": "grün"})
    assert Path(record.path) == tmp_path / "a.png"


def test_building_the_same_again_publishes_nothing_and_embeds_nothing(tmp_path: Path) -> None:
    catalogue, second = catalogue_of(tmp_path, 10), ColourEmbedder()
    first = editor(tmp_path / "index").build(catalogue, ColourEmbedder())
    again = editor(tmp_path / "index").build(catalogue, second)
    assert (again.published, again.manifest.version, second.embedded) == (False, first.manifest.version, 0)


def test_an_add_embeds_only_what_is_new_and_keeps_the_rows(tmp_path: Path) -> None:
    editor(tmp_path / "index").build(catalogue_of(tmp_path, 10), ColourEmbedder())
    embedder = ColourEmbedder()
    edit = editor(tmp_path / "index").add(catalogue_of(tmp_path, 13), embedder)
    assert (edit.added, edit.replaced, embedder.embedded) == (3, 0, 3)
    assert ids_in(tmp_path / "index") == [f"item-{number}" for number in range(13)]


def test_an_item_with_new_content_replaces_the_old_in_its_place(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, 5)
    editor(tmp_path / "index").build(catalogue, ColourEmbedder())
    save_picture(tmp_path / "2.png", seed=99)
    edit = editor(tmp_path / "index").add(Catalogue(tmp_path, [catalogue.items[2]]), ColourEmbedder())
    assert (edit.added, edit.replaced, edit.embedded) == (0, 1, 1)
    assert ids_in(tmp_path / "index") == [f"item-{number}" for number in range(5)]


def test_an_item_with_new_words_is_replaced_without_being_embedded(tmp_path: Path) -> None:
    catalogue, embedder = catalogue_of(tmp_path, 5), ColourEmbedder()
    editor(tmp_path / "index").build(catalogue, ColourEmbedder())
    edit = editor(tmp_path / "index").add(
        Catalogue(tmp_path, [replace(catalogue.items[2], title="A new title")]), embedder
    )
    assert (edit.replaced, embedder.embedded) == (1, 0)
    record = open_index(tmp_path / "index").items.record("item-2")
    assert record is not None and record.title == "A new title"


def test_existing_items_can_be_kept_as_they_are(tmp_path: Path) -> None:
    editor(tmp_path / "index").build(catalogue_of(tmp_path, 5), ColourEmbedder())
    save_picture(tmp_path / "2.png", seed=99)
    embedder = ColourEmbedder()
    edit = editor(tmp_path / "index", existing="keep").add(
        Catalogue(tmp_path, [Item("item-2", tmp_path / "2.png")]), embedder
    )
    assert (edit.published, edit.kept_existing, embedder.embedded) == (False, 1, 0)


def test_an_item_whose_new_image_is_unreadable_stays_as_it_was(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, 5)
    editor(tmp_path / "index").build(catalogue, ColourEmbedder())
    (tmp_path / "2.png").write_bytes(b"broken")
    edit = editor(tmp_path / "index").add(catalogue, ColourEmbedder())
    assert edit.count("unreadable") == 1
    assert "item-2" in ids_in(tmp_path / "index")


def test_removing_leaves_the_other_ids_and_reports_unknown_ones(tmp_path: Path) -> None:
    editor(tmp_path / "index").build(catalogue_of(tmp_path, 6), ColourEmbedder())
    edit = editor(tmp_path / "index").remove(["item-1", "item-4", "nothing"])
    assert (edit.removed, edit.unknown_ids) == (2, ["nothing"])
    assert ids_in(tmp_path / "index") == ["item-0", "item-2", "item-3", "item-5"]


def test_after_remove_and_add_each_id_still_finds_its_own_image(tmp_path: Path) -> None:
    embedder, folder = ColourEmbedder(), tmp_path / "index"
    editor(folder).build(catalogue_of(tmp_path, 12), embedder)
    editor(folder).remove(["item-0", "item-7"])
    editor(folder).add(catalogue_of(tmp_path, 6, first=10), embedder)
    index = open_index(folder)
    for row, record in enumerate(index.items.records()):
        (hits,) = index.search(index.vectors[row : row + 1], top_k=1)
        assert (hits[0].item_id, record.path) == (record.item_id, str(tmp_path / f"{record.item_id[5:]}.png"))


def test_removing_only_unknown_ids_publishes_nothing(tmp_path: Path) -> None:
    editor(tmp_path / "index").build(catalogue_of(tmp_path, 3), ColourEmbedder())
    edit = editor(tmp_path / "index").remove(["nothing"])
    assert (edit.published, edit.removed) == (False, 0)


def test_duplicates_are_reported_and_skipped(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, 3)
    catalogue.items.append(Item("again", save_picture(tmp_path / "again.png", seed=1)))
    edit = editor(tmp_path / "index").build(catalogue, ColourEmbedder())
    assert [(p.item_id, p.reason) for p in edit.problems] == [("again", "the same image as item 'item-1'; skipped")]
    assert ids_in(tmp_path / "index") == ["item-0", "item-1", "item-2"]


def test_duplicates_can_be_kept_and_are_still_reported(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, 3)
    catalogue.items.append(Item("again", save_picture(tmp_path / "again.png", seed=1)))
    edit = editor(tmp_path / "index", duplicates="keep").build(catalogue, ColourEmbedder())
    assert (edit.count("duplicate"), edit.added, edit.embedded) == (1, 4, 3)
    assert ids_in(tmp_path / "index")[-1] == "again"


def test_an_added_duplicate_of_an_indexed_item_is_skipped(tmp_path: Path) -> None:
    editor(tmp_path / "index").build(catalogue_of(tmp_path, 3), ColourEmbedder())
    again = Catalogue(tmp_path, [Item("again", save_picture(tmp_path / "again.png", seed=1))])
    edit = editor(tmp_path / "index").add(again, ColourEmbedder())
    assert (edit.published, edit.count("duplicate")) == (False, 1)


def test_problems_are_written_to_a_report_file(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, 3)
    (tmp_path / "1.png").write_bytes(b"broken")
    edit = editor(tmp_path / "index").build(catalogue, ColourEmbedder())
    assert edit.report is not None
    (problem,) = map(json.loads, edit.report.read_text().splitlines())
    assert (problem["kind"], problem["item_id"], problem["path"]) == ("unreadable", "item-1", str(tmp_path / "1.png"))


def test_a_build_without_one_readable_image_publishes_nothing(tmp_path: Path) -> None:
    editor(tmp_path / "index").build(catalogue_of(tmp_path, 3), ColourEmbedder())
    (tmp_path / "0.png").write_bytes(b"broken")
    bad = Catalogue(tmp_path, [Item("item-0", tmp_path / "0.png")])
    with pytest.raises(SetupError, match=r"none of the 1 images .*0\.png: unsupported_image"):
        editor(tmp_path / "index").build(bad, ColourEmbedder())
    assert len(ids_in(tmp_path / "index")) == 3


def test_a_catalogue_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="holds no image"):
        editor(tmp_path / "index").build(Catalogue(tmp_path, []), ColourEmbedder())


def test_another_embedder_cannot_add_and_both_are_named(tmp_path: Path) -> None:
    editor(tmp_path / "index").build(catalogue_of(tmp_path, 3), ColourEmbedder(fingerprint="a" * 16))
    with pytest.raises(IndexMismatch) as refused:
        editor(tmp_path / "index").add(catalogue_of(tmp_path, 4), ColourEmbedder(fingerprint="b" * 16))
    assert "a" * 16 in refused.value.message and "b" * 16 in refused.value.message


def test_images_prepared_otherwise_cannot_be_added(tmp_path: Path) -> None:
    editor(tmp_path / "index").build(catalogue_of(tmp_path, 3), ColourEmbedder())
    with pytest.raises(IndexMismatch, match="'whole image'; 'crop by 1' cannot be added"):
        editor(tmp_path / "index").add(catalogue_of(tmp_path, 4), ColourEmbedder(preparation="crop by 1"))


def test_a_build_by_another_embedder_embeds_all_anew(tmp_path: Path) -> None:
    catalogue, other = catalogue_of(tmp_path, 5), ColourEmbedder(fingerprint="b" * 16)
    editor(tmp_path / "index").build(catalogue, ColourEmbedder())
    edit = editor(tmp_path / "index").build(catalogue, other)
    assert (edit.manifest.fingerprint, other.embedded) == ("b" * 16, 5)


def test_nothing_can_be_added_to_or_removed_from_an_index_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(IndexUnavailable, match="lookalike index build"):
        editor(tmp_path / "index").add(catalogue_of(tmp_path, 3), ColourEmbedder())
    with pytest.raises(IndexUnavailable):
        editor(tmp_path / "index").remove(["item-1"])


def test_an_add_goes_on_with_the_kind_that_was_built(tmp_path: Path) -> None:
    hnsw = IndexSettings(kind="hnsw", hnsw_m=8, ef_construction=40)
    IndexEditor(tmp_path / "index", hnsw).build(catalogue_of(tmp_path, 30), ColourEmbedder())
    edit = editor(tmp_path / "index").add(catalogue_of(tmp_path, 40), ColourEmbedder())
    assert (edit.manifest.kind, edit.manifest.build.hnsw_m) == ("hnsw", 8)


def test_published_embeddings_are_not_kept_twice(tmp_path: Path) -> None:
    editor(tmp_path / "index").build(catalogue_of(tmp_path, 20), ColourEmbedder())
    assert not list((tmp_path / "index" / "embeddings").glob("*/*"))


def test_a_damaged_version_does_not_hinder_a_new_build(tmp_path: Path) -> None:
    catalogue = catalogue_of(tmp_path, 5)
    editor(tmp_path / "index").build(catalogue, ColourEmbedder())
    vectors = IndexLayout(tmp_path / "index").published_dir() / "vectors.npy"
    data = bytearray(vectors.read_bytes())
    data[200] ^= 1
    vectors.write_bytes(data)
    embedder = ColourEmbedder()
    edit = editor(tmp_path / "index").build(catalogue, embedder)
    assert (edit.published, embedder.embedded) == (True, 5)
    assert len(ids_in(tmp_path / "index")) == 5
