import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lookalike.config import IndexSettings
from lookalike.errors import IndexDamaged, IndexMismatch, IndexUnavailable
from lookalike.index.edits import IndexEditor
from lookalike.index.layout import IndexLayout
from lookalike.index.live import LiveIndex
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
    with LiveIndex(tmp_path / "index", lambda: ColourEmbedder().fingerprint, poll_s=0.01) as live:
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


def test_a_version_of_the_next_embedder_waits_until_that_embedder_is_served(tmp_path: Path) -> None:
    served = ColourEmbedder().fingerprint
    old = build(tmp_path / "index", 3)
    with LiveIndex(tmp_path / "index", lambda: served, poll_s=0.02) as live:
        new = build(tmp_path / "index", 4, ColourEmbedder(fingerprint="e" * 16))
        wait_until(lambda: live.problem is not None)
        assert isinstance(live.problem, IndexMismatch)
        assert new in live.problem.message and "e" * 16 in live.problem.message
        assert live.current().info.version == old
        served = "e" * 16
        wait_until(lambda: live.current().info.version == new)
        wait_until(lambda: live.problem is None)


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
