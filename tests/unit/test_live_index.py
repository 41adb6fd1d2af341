import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lookalike.config import IndexSettings
from lookalike.errors import IndexDamaged, IndexMismatch, IndexUnavailable
from lookalike.index.edits import IndexEditor
from lookalike.index.followed import until_next
from lookalike.index.layout import IndexLayout
from lookalike.index.live import LiveIndex
from lookalike.index.writer import IndexWriter
from tests.colour_embedder import ColourEmbedder, catalogue_of

SETTINGS = IndexSettings(keep_versions=1)


def build(index_dir: Path, count: int, embedder: ColourEmbedder | None = None) -> str:
    editor = IndexEditor(index_dir, SETTINGS)
    return editor.build(catalogue_of(index_dir.parent, count), embedder or ColourEmbedder()).manifest.version


def wait_until(condition: Callable[[], bool], limit_s: float = 10) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come about"
        time.sleep(0.01)


def damage(index_dir: Path) -> None:
    vectors = IndexLayout(index_dir).published_dir() / "vectors.npy"
    data = bytearray(vectors.read_bytes())
    data[300] ^= 1
    # A new file, as a bad copy is: the mapped one belongs to whoever has it open.
    vectors.unlink()
    vectors.write_bytes(data)


def test_there_is_nothing_until_a_first_version_is_published(tmp_path: Path) -> None:
    with LiveIndex(tmp_path / "index", poll_s=0.02) as live:
        with pytest.raises(IndexUnavailable, match="lookalike index build"):
            live.current()
        version = build(tmp_path / "index", 3)
        wait_until(lambda: live.problem is None)
        assert live.current().info.version == version


def test_a_new_version_is_swapped_in_and_the_old_one_can_still_be_searched(tmp_path: Path) -> None:
    build(tmp_path / "index", 3)
    with LiveIndex(tmp_path / "index", poll_s=0.02) as live:
        old = live.current()
        new = build(tmp_path / "index", 9)
        wait_until(lambda: live.current().info.version == new)
        # Its folder is deleted by now; what is mapped stays readable.
        assert not (tmp_path / "index" / "versions" / old.info.version).exists()
        assert len(old.search(old.vectors[:1], 10)[0]) == 3
        assert len(live.current().search(old.vectors[:1], 10)[0]) == 9


def test_a_version_of_another_kind_is_swapped_in(tmp_path: Path) -> None:
    def in_use(kind: str) -> bool:
        return live.problem is None and live.current().info.kind == kind

    with LiveIndex(tmp_path / "index", poll_s=0.02) as live:
        for kind in ("flat", "ivf", "hnsw", "ivf"):
            settings = SETTINGS.model_copy(update={"kind": kind})
            IndexEditor(tmp_path / "index", settings).build(catalogue_of(tmp_path, 40), ColourEmbedder())
            wait_until(partial(in_use, kind))
            hits = live.current().search(live.current().vectors[7:8], 3, {"parity": ["odd"]})[0]
            assert hits[0].item_id == "item-7"


def test_no_search_fails_while_versions_are_swapped(tmp_path: Path) -> None:
    build(tmp_path / "index", 5)
    failures: list[Exception] = []
    stop = threading.Event()

    def search(live: LiveIndex) -> None:
        while not stop.is_set():
            try:
                index = live.current()
                hits = index.search(index.vectors[:1], 3)[0]
                assert [hit.item_id for hit in hits][:1] == ["item-0"]
            except Exception as error:
                failures.append(error)

    with LiveIndex(tmp_path / "index", poll_s=0.005) as live:
        threads = [threading.Thread(target=search, args=(live,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for count in range(6, 16):
            version = build(tmp_path / "index", count)
        wait_until(lambda: live.current().info.version == version)
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_a_damaged_new_version_is_refused_and_the_old_one_goes_on(tmp_path: Path) -> None:
    old = build(tmp_path / "index", 3)
    with LiveIndex(tmp_path / "index", poll_s=3600) as live:
        new = build(tmp_path / "index", 4)
        damage(tmp_path / "index")
        live.refresh()
        assert live.current().info.version == old
        assert isinstance(live.problem, IndexDamaged)
        assert new in live.problem.message and "vectors.npy was altered" in live.problem.message


def test_a_refusal_is_logged_once_by_name_and_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = build(tmp_path / "index", 3)
    with LiveIndex(tmp_path / "index", lambda: ColourEmbedder().fingerprint, poll_s=0.01, ahead=False) as live:
        build(tmp_path / "index", 4, ColourEmbedder(fingerprint="e" * 16))
        wait_until(lambda: live.problem is not None)
        time.sleep(0.1)
    refusals = [record.message for record in caplog.records if "index refused" in record.message]
    assert len(refusals) == 1
    assert refusals[0].endswith(f"in use: {old}")


def test_a_version_by_another_embedder_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "index", 3)
    with LiveIndex(tmp_path / "index", lambda: "e" * 16, poll_s=3600) as live:
        with pytest.raises(IndexMismatch, match="the embedder in use is eeeeeeeeeeeeeeee"):
            live.current()
        build(tmp_path / "index", 3, ColourEmbedder(fingerprint="e" * 16))
        live.refresh()
        assert live.current().manifest.fingerprint == "e" * 16
        assert live.problem is None


@pytest.mark.parametrize("ahead", [False, True])
def test_a_version_of_the_next_embedder_waits_until_that_embedder_is_served(tmp_path: Path, ahead: bool) -> None:
    served = ColourEmbedder().fingerprint
    old = build(tmp_path / "index", 3)
    with LiveIndex(tmp_path / "index", lambda: served, poll_s=0.02, ahead=ahead) as live:
        new = build(tmp_path / "index", 4, ColourEmbedder(fingerprint="e" * 16))
        wait_until(lambda: live.problem is not None or new in live.open_versions().values())
        assert live.current().info.version == old
        assert live.of(served).info.version == old
        if ahead:
            # Its embedder may answer at any moment: it is open, and nothing is wrong.
            assert (live.of("e" * 16).info.version, live.problem) == (new, None)
        else:
            assert isinstance(live.problem, IndexMismatch)
            assert new in live.problem.message and "e" * 16 in live.problem.message
            assert live.open_versions() == {served: old}
        served = "e" * 16
        wait_until(lambda: live.current().info.version == new)
        wait_until(lambda: live.problem is None)


def test_both_embedders_find_their_own_index_however_often_they_take_turns(tmp_path: Path) -> None:
    fingerprints = [ColourEmbedder().fingerprint, "e" * 16]
    versions = [build(tmp_path / "index", 3 + n, ColourEmbedder(fingerprint=f)) for n, f in enumerate(fingerprints)]
    served: str | None = None
    with LiveIndex(tmp_path / "index", lambda: served, poll_s=3600) as live:
        assert live.current().info.version == versions[1]
        for turn in range(6):
            served = fingerprints[turn % 2]
            live.refresh()
            assert live.current().info.version == versions[turn % 2]
            assert [live.of(fingerprint).info.version for fingerprint in fingerprints] == versions
            assert live.problem is None


def test_an_edit_after_the_change_leaves_the_index_of_the_old_embedder_open(tmp_path: Path) -> None:
    old = build(tmp_path / "index", 3)
    with LiveIndex(tmp_path / "index", lambda: ColourEmbedder().fingerprint, poll_s=3600) as live:
        for count in range(4, 9):
            new = build(tmp_path / "index", count, ColourEmbedder(fingerprint="e" * 16))
            live.refresh()
            assert live.open_versions() == {ColourEmbedder().fingerprint: old, "e" * 16: new}


def test_a_router_that_starts_in_the_middle_of_a_change_finds_the_index_of_its_embedder(tmp_path: Path) -> None:
    old = build(tmp_path / "index", 3)
    build(tmp_path / "index", 3, ColourEmbedder(fingerprint="e" * 16))
    with LiveIndex(tmp_path / "index", lambda: ColourEmbedder().fingerprint, poll_s=3600, ahead=False) as live:
        assert live.current().info.version == old
        assert list(live.open_versions().values()) == [old]


def test_a_retired_version_is_closed(tmp_path: Path) -> None:
    build(tmp_path / "index", 3)
    new = build(tmp_path / "index", 3, ColourEmbedder(fingerprint="e" * 16))
    with LiveIndex(tmp_path / "index", lambda: "e" * 16, poll_s=3600) as live:
        assert len(live.open_versions()) == 2
        with IndexWriter(tmp_path / "index", keep_versions=1) as writer:
            writer.retire_previous()
        live.refresh()
        assert live.open_versions() == {"e" * 16: new}


def test_damage_to_the_index_of_the_embedder_before_does_not_touch_the_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = build(tmp_path / "index", 3)
    new = build(tmp_path / "index", 3, ColourEmbedder(fingerprint="e" * 16))
    os.truncate(tmp_path / f"index/versions/{old}/items.arrow", 100)
    with LiveIndex(tmp_path / "index", lambda: "e" * 16, poll_s=3600) as live:
        assert (live.current().info.version, live.problem) == (new, None)
        assert f"{old}: items.arrow has 100 bytes" in caplog.text


def test_a_version_in_use_is_checked_as_soon_as_the_embedder_is_known(tmp_path: Path) -> None:
    served = None
    build(tmp_path / "index", 3)
    with LiveIndex(tmp_path / "index", lambda: served, poll_s=0.02) as live:
        assert live.problem is None
        served = "e" * 16
        wait_until(lambda: isinstance(live.problem, IndexMismatch))


def test_a_damaged_first_version_is_told_by_name(tmp_path: Path) -> None:
    build(tmp_path / "index", 3)
    items = IndexLayout(tmp_path / "index").published_dir() / "items.arrow"
    os.truncate(items, 100)
    with (
        LiveIndex(tmp_path / "index", poll_s=3600) as live,
        pytest.raises(IndexDamaged, match=r"items\.arrow has 100 bytes"),
    ):
        live.current()


def test_the_version_in_use_survives_the_loss_of_current(tmp_path: Path) -> None:
    version = build(tmp_path / "index", 3)
    with LiveIndex(tmp_path / "index", poll_s=3600) as live:
        (tmp_path / "index" / "CURRENT").unlink()
        live.refresh()
        assert live.current().info.version == version
        assert isinstance(live.problem, IndexUnavailable)


@pytest.mark.parametrize(
    ("poll_s", "now_s", "wait_s"), [(1.0, 1764000000.25, 0.75), (0.2, 5.0625, 0.1375), (10.0, 40.0, 10.0)]
)
def test_all_processes_look_at_the_same_moments(poll_s, now_s, wait_s):
    assert until_next(poll_s, now_s) == pytest.approx(wait_s)
