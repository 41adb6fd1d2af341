"""Parallel builds through a real S3 server: the index that one process makes, and nothing but whole sets of shards."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lookalike.catalogue import Catalogue, Item, read_catalogue
from lookalike.config import IndexSettings, StoreSettings
from lookalike.delivery.builds import Build, ShardReport, share_of
from lookalike.delivery.index_store import IndexStore, push_index
from lookalike.delivery.publish import publish_build
from lookalike.delivery.pull import IndexPuller
from lookalike.delivery.shards import ShardBuilder
from lookalike.delivery.store import open_store
from lookalike.errors import SetupError, StoreDamaged, StoreMissing, StoreMoved, StoreUnreachable
from lookalike.index.edits import Edit, IndexEditor
from lookalike.index.faiss_index import open_index
from lookalike.index.layout import IndexLayout
from lookalike.index.snapshot import open_snapshot
from lookalike.index.verify import verify_snapshot
from lookalike.ingest import IngestOptions
from tests.colour_embedder import ColourEmbedder, catalogue_of, save_picture
from tests.s3_server import S3Server

COUNT = 4
SETTINGS = IndexSettings(chunk_items=5, keep_versions=3)
ONE_THREAD = IngestOptions(threads=1)


@pytest.fixture
def target(s3: S3Server, request: pytest.FixtureRequest) -> IndexStore:
    return IndexStore(open_store(s3.url(f"builds/{request.node.name}"), StoreSettings(retry_s=0, timeout_s=5)))


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    """30 items, of which one is unreadable, and one has the image of another."""
    items = catalogue_of(tmp_path / "images", 30).items
    (tmp_path / "images/7.png").write_bytes(b"no image")
    items[21] = dataclasses.replace(items[21], path=items[3].path)
    return Catalogue(tmp_path / "images", items)


class Broken(Exception):
    pass


class BreakingEmbedder(ColourEmbedder):
    """Ends as a machine does, after some batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._batches = batches

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if not self._batches:
            raise Broken
        self._batches -= 1
        return super().embed(pixels)


def shard(
    target: IndexStore,
    work: Path,
    catalogue: Catalogue,
    index: int,
    build: str = "one",
    count: int = COUNT,
    embedder: ColourEmbedder | None = None,
    options: IngestOptions = ONE_THREAD,
) -> ShardReport:
    """Build one shard as a pod does: with nothing on its disk."""
    work.mkdir(parents=True, exist_ok=True)
    folder = work / f"pod-{len(list(work.iterdir()))}-{index}"
    folder.mkdir()
    builder = ShardBuilder(target, Build(target.store, build), index, count, folder)
    return builder.run(catalogue, embedder or ColourEmbedder(), options, SETTINGS)


def all_shards(target: IndexStore, work: Path, catalogue: Catalogue, build: str = "one") -> list[ShardReport]:
    return [shard(target, work, catalogue, index, build) for index in range(COUNT)]


def publish(target: IndexStore, work: Path, build: str = "one", settings: IndexSettings = SETTINGS) -> Edit:
    folder = work / f"publisher-{len(list(work.iterdir()))}"
    folder.mkdir()
    return publish_build(target, Build(target.store, build), settings, folder)


def object_of(s3: S3Server, target: IndexStore, ending: str) -> str:
    prefix = target.url.removeprefix(f"s3://{s3.bucket}/") + "/"
    (found,) = [name for name in s3.names(prefix) if name.endswith(ending)]
    return found


def pulled(target: IndexStore, work: Path) -> Path:
    """Return the folder of the store's version on a new machine."""
    here = work / f"here-{len(list(work.iterdir()))}"
    IndexPuller(target, here, 3).pull().check()
    return IndexLayout(here).published_dir()


@pytest.mark.parametrize("duplicates", ["skip", "keep"])
def test_the_shards_make_the_index_that_one_process_makes(
    target: IndexStore, tmp_path: Path, catalogue: Catalogue, duplicates: str
) -> None:
    options = IngestOptions(threads=1, duplicates=duplicates)
    alone = IndexEditor(tmp_path / "alone", SETTINGS, options).build(catalogue, ColourEmbedder())
    for index in (2, 0, 3, 1):
        shard(target, tmp_path / "work", catalogue, index, options=options)
    edit = publish(target, tmp_path / "work")
    assert edit.published
    assert sorted(map(str, edit.problems)) == sorted(map(str, alone.problems))
    together = pulled(target, tmp_path / "work")
    verify_snapshot(together)
    for name in ("vectors.npy", "items.arrow"):
        assert (together / name).read_bytes() == (IndexLayout(tmp_path / "alone").published_dir() / name).read_bytes()
    assert edit.manifest.files == alone.manifest.files


@pytest.mark.parametrize(("wanted", "kind"), [("hnsw", "hnsw"), ("ivf", "ivf"), ("auto", "flat")])
def test_a_kind_is_built_over_the_same_rows(
    target: IndexStore, tmp_path: Path, catalogue: Catalogue, wanted: str, kind: str
) -> None:
    settings = SETTINGS.model_copy(update={"kind": wanted})
    alone = IndexEditor(tmp_path / "alone", settings, ONE_THREAD).build(catalogue, ColourEmbedder())
    all_shards(target, tmp_path / "work", catalogue)
    edit = publish(target, tmp_path / "work", settings=settings)
    assert edit.manifest.kind == kind
    for name in ("vectors.npy", "items.arrow"):
        assert edit.manifest.files[name] == alone.manifest.files[name]
    assert edit.manifest.build == alone.manifest.build


def test_shares_are_whole_disjoint_and_the_same_everywhere(catalogue: Catalogue) -> None:
    shares = [share_of(catalogue.items, index, 7) for index in range(7)]
    assert sorted(row for share in shares for row, _ in share) == list(range(30))
    assert share_of(catalogue.items[:10], 2, 7) == [(row, item) for row, item in shares[2] if row < 10]


def test_a_shard_that_is_built_again_changes_nothing_and_embeds_nothing(
    s3: S3Server, target: IndexStore, tmp_path: Path, catalogue: Catalogue
) -> None:
    all_shards(target, tmp_path / "work", catalogue)
    before = s3.digest()
    embedder = ColourEmbedder()
    report = shard(target, tmp_path / "work", catalogue, 1, embedder=embedder)
    assert (report.embedded, embedder.embedded) == (0, 0)
    assert s3.digest() == before


def test_a_shard_goes_on_on_another_machine_where_the_first_one_ended(
    s3: S3Server, target: IndexStore, tmp_path: Path
) -> None:
    catalogue = catalogue_of(tmp_path / "images", 60)
    options = IngestOptions(threads=1, batch_images=5)
    with pytest.raises(Broken):
        shard(target, tmp_path / "work", catalogue, 0, count=1, embedder=BreakingEmbedder(6), options=options)
    assert [name for name in s3.names() if "/chunks/" in name and target.url.split("/")[-1] in name]
    embedder = ColourEmbedder()
    report = shard(target, tmp_path / "work", catalogue, 0, count=1, embedder=embedder, options=options)
    assert (report.items, embedder.embedded) == (60, 30)
    assert not [name for name in s3.names() if "/chunks/" in name and target.url.split("/")[-1] in name]


def test_the_next_build_embeds_only_what_is_new(target: IndexStore, tmp_path: Path, catalogue: Catalogue) -> None:
    all_shards(target, tmp_path / "work", catalogue)
    first = publish(target, tmp_path / "work").manifest
    added = Item("item-new", save_picture(tmp_path / "images/new.png", 99))
    changed = save_picture(catalogue.items[5].path, 98)
    assert changed == catalogue.items[5].path
    later = Catalogue(catalogue.source, [*catalogue.items, added])
    reports = all_shards(target, tmp_path / "work", later, "two")
    assert sum(report.embedded for report in reports) == 2
    edit = publish(target, tmp_path / "work", "two")
    assert (edit.published, edit.manifest.count) == (True, first.count + 1)
    assert target.store.names("builds") == ["two"]


def test_a_build_of_the_same_catalogue_publishes_nothing(
    target: IndexStore, tmp_path: Path, catalogue: Catalogue
) -> None:
    all_shards(target, tmp_path / "work", catalogue)
    first = publish(target, tmp_path / "work")
    all_shards(target, tmp_path / "work", catalogue, "two")
    again = publish(target, tmp_path / "work", "two")
    assert (again.manifest, again.published) == (first.manifest, False)


def test_a_build_is_published_once_however_many_publish(
    target: IndexStore, tmp_path: Path, catalogue: Catalogue
) -> None:
    all_shards(target, tmp_path / "work", catalogue)

    def attempt(number: int) -> str:
        folder = tmp_path / f"attempt-{number}"
        folder.mkdir()
        # A store that answers three writers at once with a 500 is asked again, as a publisher would.
        own = IndexStore(open_store(target.url, StoreSettings(retry_s=20)))
        try:
            return publish_build(own, Build(own.store, "one"), SETTINGS, folder).manifest.version
        except StoreMoved:
            return "lost"

    with ThreadPoolExecutor(3) as threads:
        outcomes = set(threads.map(attempt, range(3)))
    (version,) = outcomes - {"lost"}
    assert target.pointers().current == version
    assert publish(target, tmp_path / "work").manifest.version == version


def test_missing_shards_are_named(target: IndexStore, tmp_path: Path, catalogue: Catalogue) -> None:
    with pytest.raises(StoreMissing, match="build one has not begun"):
        publish_build(target, Build(target.store, "one"), SETTINGS, tmp_path)
    for index in (0, 2):
        shard(target, tmp_path / "work", catalogue, index)
    with pytest.raises(SetupError, match="lacks 2 of 4 shards: shard-00001-of-00004, shard-00003-of-00004"):
        publish(target, tmp_path / "work")
    assert target.pointers().current is None


def test_a_publisher_waits_for_the_last_shard(target: IndexStore, tmp_path: Path, catalogue: Catalogue) -> None:
    with ThreadPoolExecutor(1) as threads:
        (tmp_path / "publisher").mkdir()
        waiting = threads.submit(
            publish_build, target, Build(target.store, "one"), SETTINGS, tmp_path / "publisher", wait_s=60
        )
        all_shards(IndexStore(open_store(target.url)), tmp_path / "work", catalogue)
        assert waiting.result().published


def test_a_doubled_shard_is_named(s3: S3Server, target: IndexStore, tmp_path: Path, catalogue: Catalogue) -> None:
    all_shards(target, tmp_path / "work", catalogue)
    for ending in ("arrow", "json"):
        first = object_of(s3, target, f"shard-00001-of-00004.{ending}")
        s3.put(first.replace("00001-of", "00002-of"), s3.get(first))
    with pytest.raises(SetupError, match="shard-00002-of-00004 is doubled: it holds shard 1"):
        publish(target, tmp_path / "work")


def test_an_item_in_two_shards_is_named(s3: S3Server, target: IndexStore, tmp_path: Path, catalogue: Catalogue) -> None:
    all_shards(target, tmp_path / "work", catalogue)
    first = object_of(s3, target, "shard-00001-of-00004.json")
    report = json.loads(s3.get(first)) | {"index": 2}
    s3.put(first.replace("00001-of", "00002-of"), json.dumps(report).encode())
    arrow = object_of(s3, target, "shard-00001-of-00004.arrow")
    s3.put(arrow.replace("00001-of", "00002-of"), s3.get(arrow))
    with pytest.raises(SetupError, match=r"item 'item-\d+' is in shard-00001-of-00004 and again in shard-00002"):
        publish(target, tmp_path / "work")


def test_a_shard_of_another_build_or_number_is_named(
    s3: S3Server, target: IndexStore, tmp_path: Path, catalogue: Catalogue
) -> None:
    all_shards(target, tmp_path / "work", catalogue)
    shard(target, tmp_path / "work", Catalogue(catalogue.source, catalogue.items[:20]), 1, "two")
    for ending in ("arrow", "json"):
        foreign = object_of(s3, target, f"two/shard-00001-of-00004.{ending}")
        s3.put(foreign.replace("/two/", "/one/"), s3.get(foreign))
    with pytest.raises(SetupError, match="shard-00001-of-00004 is foreign: it was made by another plan"):
        publish(target, tmp_path / "work")
    shard(target, tmp_path / "work", catalogue, 1)
    name = object_of(s3, target, "one/shard-00000-of-00004.json")
    s3.put(name.replace("00000-of-00004", "00000-of-00005"), s3.get(name))
    with pytest.raises(SetupError, match=r"has a foreign shard: shard-00000-of-00005\.json; it has 4 shards"):
        publish(target, tmp_path / "work")


def test_an_altered_shard_is_named(s3: S3Server, target: IndexStore, tmp_path: Path, catalogue: Catalogue) -> None:
    all_shards(target, tmp_path / "work", catalogue)
    s3.alter(object_of(s3, target, "shard-00003-of-00004.arrow"))
    with pytest.raises(StoreDamaged, match=r"shard-00003-of-00004\.arrow was altered"):
        publish(target, tmp_path / "work")
    assert target.pointers().current is None


def test_a_shard_of_another_source_or_embedder_does_not_join(
    target: IndexStore, tmp_path: Path, catalogue: Catalogue
) -> None:
    shard(target, tmp_path / "work", catalogue, 0)
    with pytest.raises(SetupError, match=r"build one was begun with something else: .*items is 29 instead of 30"):
        shard(target, tmp_path / "work", Catalogue(catalogue.source, catalogue.items[:-1]), 1)
    with pytest.raises(SetupError, match="fingerprint is 'eeeeeeeeeeeeeeee' instead of"):
        shard(target, tmp_path / "work", catalogue, 1, embedder=ColourEmbedder("e" * 16))
    with pytest.raises(SetupError, match="count is 5 instead of 4"):
        shard(target, tmp_path / "work", catalogue, 1, count=5)
    with pytest.raises(SetupError, match="there is no shard 4 of 4"):
        shard(target, tmp_path / "work", catalogue, 4)
    with pytest.raises(SetupError, match=r"build '\.\./x' is no name"):
        Build(target.store, "../x")


def test_an_edit_during_a_build_is_not_lost(target: IndexStore, tmp_path: Path, catalogue: Catalogue) -> None:
    editor = IndexEditor(tmp_path / "index", SETTINGS, ONE_THREAD)
    editor.build(catalogue_of(tmp_path / "images", 5), ColourEmbedder())
    push_index(tmp_path / "index", target, 3)
    all_shards(target, tmp_path / "work", catalogue)
    edited = editor.remove(["item-1"]).manifest
    push_index(tmp_path / "index", target, 3)
    with pytest.raises(StoreMoved, match=f"has {edited.version} in use, but this was made from"):
        publish(target, tmp_path / "work")
    assert target.pointers().current == edited.version


def test_a_build_without_a_readable_image_publishes_nothing(target: IndexStore, tmp_path: Path) -> None:
    items = [Item(str(number), tmp_path / f"{number}.png") for number in range(8)]
    reports = all_shards(target, tmp_path / "work", Catalogue(tmp_path, items))
    assert sum(len(report.problems) for report in reports) == 8
    with pytest.raises(SetupError, match="none of its 8 images can be read"):
        publish(target, tmp_path / "work")
    assert b'"kind": "unreadable"' in target.store.read("builds/one/problems.jsonl")


def test_a_new_version_has_a_higher_number_and_the_old_embedders_one_stays(
    target: IndexStore, tmp_path: Path, catalogue: Catalogue
) -> None:
    all_shards(target, tmp_path / "work", catalogue)
    old = publish(target, tmp_path / "work").manifest
    for index in range(COUNT):
        shard(target, tmp_path / "work", catalogue, index, "two", embedder=ColourEmbedder("e" * 16))
    new = publish(target, tmp_path / "work", "two").manifest
    assert target.pointers() == (new.version, old.version)
    assert (old.version[:6], new.version[:6]) == ("000001", "000002")
    assert open_snapshot(pulled(target, tmp_path / "work")).manifest == new


def in_the_store(s3: S3Server, folder: Path, count: int) -> Path:
    """Put pictures into the bucket, and return a CSV file that names them there."""
    lines = ["item_id,path,colour"]
    for number in range(count):
        s3.put(f"images/{number}.png", save_picture(folder / f"{number}.png", number).read_bytes())
        lines.append(f"item-{number},s3://{s3.bucket}/images/{number}.png,red")
    table = folder / "catalogue.csv"
    table.write_text("\n".join(lines) + "\n")
    return table


def test_images_in_a_bucket_are_embedded_like_files(s3: S3Server, target: IndexStore, tmp_path: Path) -> None:
    table = in_the_store(s3, tmp_path, 12)
    s3.delete("images/5.png")
    s3.put("images/6.png", b"")
    s3.put("images/7.png", b"no image")
    catalogue = read_catalogue(table)
    all_shards(target, tmp_path / "work", catalogue)
    edit = publish(target, tmp_path / "work")
    assert edit.manifest.count == 9
    reasons = {problem.item_id: problem.reason for problem in edit.problems}
    assert reasons.keys() == {"item-5", "item-6", "item-7"}
    assert reasons["item-5"] == "no such object in the store"
    index = open_index(pulled(target, tmp_path / "work").parents[1])
    assert index.items.record("item-3").path == f"s3://{s3.bucket}/images/3.png"
    local = IndexEditor(tmp_path / "alone", SETTINGS, ONE_THREAD).build(
        Catalogue(tmp_path, [item for item in catalogue.items if item.item_id not in reasons]), ColourEmbedder()
    )
    assert local.manifest.files == edit.manifest.files


def test_a_store_of_images_that_is_down_ends_the_shard_and_is_no_fault_of_the_images(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = IndexStore(open_store(str(tmp_path / "store")))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("LOOKALIKE_STORE_RETRY_S", "0")
    table = tmp_path / "catalogue.csv"
    table.write_text("item_id,path\none,s3://bucket-that-is-down/1.png\n")
    with pytest.raises(StoreUnreachable, match="the store cannot be reached"):
        shard(target, tmp_path / "work", read_catalogue(table), 0, count=1)
    assert Build(target.store, "one").reports(Build(target.store, "one").plan()) == {}


def test_an_address_of_no_known_kind_is_told_before_anything_is_embedded(tmp_path: Path) -> None:
    table = tmp_path / "catalogue.csv"
    table.write_text("item_id,path\none,foo://bucket/1.png\n")
    with pytest.raises(SetupError, match="foo://bucket is no address of a store"):
        read_catalogue(table)
