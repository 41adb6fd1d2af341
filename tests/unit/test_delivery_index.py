"""The index through a real S3 server: pushed, pulled, and what keeps a wrong or half version from serving."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lookalike.config import IndexSettings, StoreSettings
from lookalike.delivery.index_store import IndexStore, push_index, use_again
from lookalike.delivery.pull import IndexPuller, Pulled
from lookalike.delivery.store import open_store
from lookalike.errors import (
    IndexDamaged,
    IndexMismatch,
    IndexUnavailable,
    LookalikeError,
    StoreDamaged,
    StoreMissing,
    StoreMoved,
)
from lookalike.index.edits import IndexEditor
from lookalike.index.faiss_index import open_index
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import Manifest
from lookalike.index.verify import verify_snapshot
from tests.colour_embedder import ColourEmbedder, catalogue_of
from tests.s3_server import S3Server

IMPATIENT = StoreSettings(retry_s=0, timeout_s=5)
KEEP = 3
NEXT = "e" * 16  # the fingerprint of the next embedder


@pytest.fixture
def source(s3: S3Server, request: pytest.FixtureRequest) -> IndexStore:
    return store_at(s3.url(f"index/{request.node.name}"))


def store_at(url: str) -> IndexStore:
    return IndexStore(open_store(url, IMPATIENT))


def build(index_dir: Path, count: int, fingerprint: str = ColourEmbedder().fingerprint) -> Manifest:
    editor = IndexEditor(index_dir, IndexSettings(keep_versions=KEEP))
    return editor.build(catalogue_of(index_dir.parent / "images", count), ColourEmbedder(fingerprint)).manifest


def pull(source: IndexStore, index_dir: Path, fingerprint: str | None = None) -> Pulled:
    pulled = IndexPuller(source, index_dir, KEEP, fingerprint).pull()
    pulled.check()
    return pulled


def object_of(s3: S3Server, source: IndexStore, ending: str) -> str:
    """Return the one object of the store whose name ends so."""
    prefix = source.url.removeprefix(f"s3://{s3.bucket}/") + "/"
    (found,) = [name for name in s3.names(prefix) if name.endswith(ending)]
    return found


def serving(index_dir: Path) -> tuple[str | None, str | None]:
    layout = IndexLayout(index_dir)
    return layout.current_version(), layout.previous_version()


@pytest.mark.parametrize("place", ["s3", "folder"])
def test_a_version_comes_back_byte_for_byte(source: IndexStore, tmp_path: Path, place: str) -> None:
    source = source if place == "s3" else store_at(str(tmp_path / "store"))
    manifest = build(tmp_path / "index", 5)
    assert push_index(tmp_path / "index", source, KEEP) == (manifest, True)
    pulled = pull(source, tmp_path / "here")
    assert (pulled.new, serving(tmp_path / "here")) == ([manifest.version], (manifest.version, None))
    verify_snapshot(IndexLayout(tmp_path / "here").published_dir())
    for name in ("manifest.json", *manifest.files):
        path = f"versions/{manifest.version}/{name}"
        assert (tmp_path / "here" / path).read_bytes() == (tmp_path / "index" / path).read_bytes()


def test_pushing_and_pulling_again_does_nothing(s3: S3Server, source: IndexStore, tmp_path: Path) -> None:
    manifest = build(tmp_path / "index", 5)
    push_index(tmp_path / "index", source, KEEP)
    before = s3.digest()
    assert push_index(tmp_path / "index", source, KEEP) == (manifest, False)
    assert s3.digest() == before
    pull(source, tmp_path / "here")
    current = (tmp_path / "here/CURRENT").stat()
    assert pull(source, tmp_path / "here").new == []
    assert (tmp_path / "here/CURRENT").stat().st_mtime_ns == current.st_mtime_ns


def test_a_version_that_was_damaged_here_is_fetched_again(source: IndexStore, tmp_path: Path) -> None:
    manifest = build(tmp_path / "index", 5)
    push_index(tmp_path / "index", source, KEEP)
    pull(source, tmp_path / "here")
    (tmp_path / f"here/versions/{manifest.version}/items.arrow").write_bytes(b"damaged")
    assert pull(source, tmp_path / "here").new == [manifest.version]
    verify_snapshot(IndexLayout(tmp_path / "here").published_dir())


@pytest.mark.parametrize("file", ["vectors.npy", "items.arrow"])
def test_an_altered_object_is_named_and_the_version_before_goes_on(
    s3: S3Server, source: IndexStore, tmp_path: Path, file: str
) -> None:
    old = build(tmp_path / "index", 3)
    push_index(tmp_path / "index", source, KEEP)
    pull(source, tmp_path / "here")
    new = build(tmp_path / "index", 5)
    push_index(tmp_path / "index", source, KEEP)
    s3.alter(object_of(s3, source, f"{new.version}/{file}"))
    with pytest.raises(StoreDamaged, match=rf"{new.version}/{file} was altered: its sha256 is"):
        pull(source, tmp_path / "here")
    assert serving(tmp_path / "here") == (old.version, None)
    assert IndexLayout(tmp_path / "here").version_names() == [old.version]


def test_an_altered_manifest_is_named(s3: S3Server, source: IndexStore, tmp_path: Path) -> None:
    manifest = build(tmp_path / "index", 3)
    push_index(tmp_path / "index", source, KEEP)
    name = object_of(s3, source, "manifest.json")
    s3.put(name, s3.get(name).replace(b'"count": 3', b'"count": 4'))
    with pytest.raises(IndexDamaged, match=f"{manifest.version}: manifest.json was altered"):
        pull(source, tmp_path / "here")
    assert serving(tmp_path / "here") == (None, None)


def test_a_manifest_cannot_write_outside_of_its_folder(s3: S3Server, source: IndexStore, tmp_path: Path) -> None:
    manifest = build(tmp_path / "index", 3)
    evil = manifest.model_copy(update={"files": {**manifest.files, "../../evil": manifest.files["items.arrow"]}})
    evil = evil.named(9)
    prefix = source.url.removeprefix(f"s3://{s3.bucket}/")
    s3.put(f"{prefix}/versions/{evil.version}/manifest.json", evil.model_dump_json().encode())
    s3.put(f"{prefix}/CURRENT", f"{evil.version}\n".encode())
    with pytest.raises(IndexDamaged, match="names a strange file"):
        pull(source, tmp_path / "here")


@pytest.mark.parametrize("missing", ["vectors.npy", "manifest.json"])
def test_a_version_whose_upload_was_broken_off_is_not_taken(
    s3: S3Server, source: IndexStore, tmp_path: Path, missing: str
) -> None:
    build(tmp_path / "index", 3)
    push_index(tmp_path / "index", source, KEEP)
    s3.delete(object_of(s3, source, missing))
    with pytest.raises(StoreMissing, match=missing):
        pull(source, tmp_path / "here")
    assert serving(tmp_path / "here") == (None, None)


def test_a_push_that_was_broken_off_goes_on(s3: S3Server, source: IndexStore, tmp_path: Path) -> None:
    manifest = build(tmp_path / "index", 5)
    push_index(tmp_path / "index", source, KEEP)
    for ending in ("CURRENT", "manifest.json"):
        s3.delete(object_of(s3, source, ending))
    cut = object_of(s3, source, "vectors.npy")
    s3.put(cut, s3.get(cut)[:100])
    with pytest.raises(IndexUnavailable, match="holds no index version"):
        pull(source, tmp_path / "here")
    assert push_index(tmp_path / "index", source, KEEP)[1]
    assert pull(source, tmp_path / "here").new == [manifest.version]


def test_an_empty_store_and_a_pointer_to_nothing_are_named(s3: S3Server, source: IndexStore, tmp_path: Path) -> None:
    with pytest.raises(IndexUnavailable, match="holds no index version"):
        pull(source, tmp_path / "here")
    source.store.put("CURRENT", b"000007-1a2b3c4d\n")
    with pytest.raises(StoreMissing, match="000007-1a2b3c4d is not whole in"):
        pull(source, tmp_path / "here")
    source.store.put("CURRENT", b"<html>")
    with pytest.raises(IndexDamaged, match="CURRENT holds '<html>'"):
        pull(source, tmp_path / "here")


def test_a_damaged_version_is_not_pushed(source: IndexStore, tmp_path: Path) -> None:
    manifest = build(tmp_path / "index", 5)
    (tmp_path / f"index/versions/{manifest.version}/vectors.npy").write_bytes(b"damaged")
    with pytest.raises(IndexDamaged, match=r"vectors\.npy"):
        push_index(tmp_path / "index", source, KEEP)
    assert source.pointers() == (None, None)


def test_an_edit_of_another_publisher_is_not_overwritten(source: IndexStore, tmp_path: Path) -> None:
    build(tmp_path / "index", 5)
    push_index(tmp_path / "index", source, KEEP)
    for name in ("first", "second"):
        pull(source, tmp_path / name)
    first = build(tmp_path / "first", 6)
    push_index(tmp_path / "first", source, KEEP)
    build(tmp_path / "second", 7)
    build(tmp_path / "second", 8)  # a higher number than the first one's
    with pytest.raises(StoreMoved, match=f"has {first.version} in use, but this was made from"):
        push_index(tmp_path / "second", source, KEEP)
    assert source.pointers().current == first.version
    pull(source, tmp_path / "second")
    again = build(tmp_path / "second", 8)
    push_index(tmp_path / "second", source, KEEP)
    assert source.pointers().current == again.version


def test_of_publishers_at_the_same_moment_one_wins(source: IndexStore, tmp_path: Path) -> None:
    build(tmp_path / "index", 5)
    push_index(tmp_path / "index", source, KEEP)
    before = source.pointers().current
    names = [f"publisher-{number}" for number in range(4)]
    for number, name in enumerate(names):
        pull(source, tmp_path / name)
        build(tmp_path / name, 10 + number)
    together = threading.Barrier(len(names))

    def publish(name: str) -> str:
        target = store_at(source.url)
        together.wait()
        try:
            return target.publish(IndexLayout(tmp_path / name).published_dir(), before).version
        except StoreMoved:
            return "lost"

    with ThreadPoolExecutor(len(names)) as threads:
        outcomes = list(threads.map(publish, names))
    assert outcomes.count("lost") == len(names) - 1
    (winner,) = set(outcomes) - {"lost"}
    assert source.pointers().current == winner


def test_versions_of_two_embedders_serve_at_once_until_the_old_one_is_retired(
    source: IndexStore, tmp_path: Path
) -> None:
    old = build(tmp_path / "index", 4)
    push_index(tmp_path / "index", source, KEEP)
    new = build(tmp_path / "index", 4, NEXT)
    assert serving(tmp_path / "index") == (new.version, old.version)
    push_index(tmp_path / "index", source, KEEP)
    assert source.pointers() == (new.version, old.version)
    pull(source, tmp_path / "both")
    assert serving(tmp_path / "both") == (new.version, old.version)
    for manifest in (old, new):
        pull(source, tmp_path / manifest.fingerprint, manifest.fingerprint)
        assert serving(tmp_path / manifest.fingerprint) == (manifest.version, None)
    assert source.retire_previous() == old.version
    pull(source, tmp_path / "both")
    assert serving(tmp_path / "both") == (new.version, None)


def test_a_removal_during_a_change_leaves_both_versions(source: IndexStore, tmp_path: Path) -> None:
    build(tmp_path / "index", 4)
    push_index(tmp_path / "index", source, KEEP)
    build(tmp_path / "index", 4, NEXT)
    push_index(tmp_path / "index", source, KEEP)
    pull(source, tmp_path / "editor")
    edit = IndexEditor(tmp_path / "editor", IndexSettings()).remove(["item-2", "item-9"])
    assert (edit.removed, edit.unknown_ids, edit.published) == (1, ["item-9"], True)
    push_index(tmp_path / "editor", source, KEEP)
    for fingerprint in (ColourEmbedder().fingerprint, NEXT):
        pull(source, tmp_path / fingerprint, fingerprint)
        index = open_index(tmp_path / fingerprint)
        assert index.manifest.fingerprint == fingerprint
        assert index.items.item_ids() == ["item-0", "item-1", "item-3"]
    assert source.pointers().current == edit.manifest.version


def test_an_edit_with_the_embedder_before_is_refused(source: IndexStore, tmp_path: Path) -> None:
    build(tmp_path / "index", 4)
    new = build(tmp_path / "index", 4, NEXT)
    with pytest.raises(IndexMismatch, match="cannot add to it: build the index anew"):
        IndexEditor(tmp_path / "index", IndexSettings()).add(catalogue_of(tmp_path / "more", 2, 20), ColourEmbedder())
    assert IndexLayout(tmp_path / "index").current_version() == new.version


def test_both_versions_outlive_many_edits(source: IndexStore, tmp_path: Path) -> None:
    old = build(tmp_path / "index", 4)
    push_index(tmp_path / "index", source, KEEP)
    for count in range(5, 11):
        new = build(tmp_path / "index", count, NEXT)
        push_index(tmp_path / "index", source, KEEP)
        pull(source, tmp_path / "here")
    assert source.pointers() == (new.version, old.version)
    for place in (IndexLayout(tmp_path / "index"), IndexLayout(tmp_path / "here"), source):
        assert place.version_names()[0] == old.version
        assert len(place.version_names()) == KEEP + 1


def test_an_embedder_without_an_index_is_told_by_name(source: IndexStore, tmp_path: Path) -> None:
    old = build(tmp_path / "index", 4)
    push_index(tmp_path / "index", source, KEEP)
    with pytest.raises(IndexUnavailable, match=f"no index of embedder {NEXT}; it holds {old.version} of"):
        pull(source, tmp_path / "here", NEXT)


def test_a_damaged_version_of_the_embedder_before_hinders_no_start(
    s3: S3Server, source: IndexStore, tmp_path: Path
) -> None:
    old = build(tmp_path / "index", 4)
    push_index(tmp_path / "index", source, KEEP)
    new = build(tmp_path / "index", 4, NEXT)
    push_index(tmp_path / "index", source, KEEP)
    s3.alter(object_of(s3, source, f"{old.version}/vectors.npy"))
    pulled = pull(source, tmp_path / "here")
    assert list(pulled.problems) == [old.version]
    assert serving(tmp_path / "here") == (new.version, None)


def test_the_way_back_makes_an_older_version_current(s3: S3Server, source: IndexStore, tmp_path: Path) -> None:
    old = build(tmp_path / "index", 4)
    push_index(tmp_path / "index", source, KEEP)
    bad = build(tmp_path / "index", 9)
    push_index(tmp_path / "index", source, KEEP)
    pull(source, tmp_path / "here")
    use_again(source.url, old.version)
    pull(source, tmp_path / "here")
    assert serving(tmp_path / "here") == (old.version, None)
    s3.delete(object_of(s3, source, f"{bad.version}/items.arrow"))
    with pytest.raises(StoreMissing, match=r"items\.arrow is not in the store"):
        use_again(source.url, bad.version)
    with pytest.raises(StoreMissing, match="'latest' is not in"):
        use_again(source.url, "latest")
    assert source.pointers().current == old.version


def test_a_pull_that_finds_no_space_says_how_much_is_lacking(
    source: IndexStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "index", 4)
    push_index(tmp_path / "index", source, KEEP)
    full = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(LookalikeError, match=r"no space left in .* MB more, 0 MB are free"):
        pull(source, tmp_path / "here")
