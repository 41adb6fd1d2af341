"""A disk that is full or read-only: a clear error, the version before goes on, and room mends it. Real file systems."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike.config import IndexSettings
from lookalike.delivery.index_store import IndexStore
from lookalike.delivery.pull import IndexPuller
from lookalike.delivery.store import open_store
from lookalike.errors import NotStored
from lookalike.gateway.keys import new_key
from lookalike.index.edits import IndexEditor
from lookalike.index.layout import IndexLayout
from lookalike.index.live import LiveIndex
from lookalike.index.verify import verify_snapshot
from tests.colour_embedder import ColourEmbedder, catalogue_of, save_picture
from tests.gateway_running import ColoursBehind, client_of, running_gateway, standing_behind
from tests.resilience.promises import Promise

COUNT, SIZE = 40, "1m"


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB with an index of 40 items."""
    if os.geteuid():
        pytest.skip("only root may mount a disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    try:
        IndexEditor(folder / "index", IndexSettings()).build(catalogue_of(tmp_path, COUNT), ColourEmbedder())
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)


def fill(disk: Path) -> Path:
    """Write a file that leaves no room; return it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast


def edits_of(index_dir: Path, tmp_path: Path) -> dict[str, object]:
    """Return every edit of an index, each to be called."""
    editor = IndexEditor(index_dir, IndexSettings())
    more = catalogue_of(tmp_path / "more", 20, first=1000)
    return {
        "build": lambda: editor.build(more, ColourEmbedder()),
        "add": lambda: editor.add(more, ColourEmbedder()),
        "remove": lambda: editor.remove(["item-1", "item-2"]),
    }


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_every_edit_is_refused_by_name_and_the_old_version_goes_on(
    disk: Path, tmp_path: Path, how: str, promise: Promise
) -> None:
    index_dir = disk / "index"
    version = IndexLayout(index_dir).current_version()
    reason = "no space left to write under" if how == "full" else "cannot be written"
    told = 0
    with LiveIndex(index_dir, poll_s=0.02) as live:
        ballast = fill(disk) if how == "full" else None
        if how == "read-only":
            mount("-o", "remount,ro", disk)
        edits = edits_of(index_dir, tmp_path)
        for edit in edits.values():
            with pytest.raises(NotStored) as refused:
                edit()  # type: ignore[operator]
            told += reason in refused.value.message and str(index_dir) in refused.value.message
            assert IndexLayout(index_dir).current_version() == version
            assert verify_snapshot(IndexLayout(index_dir).published_dir()).manifest.count == COUNT
            assert live.current().info.version == version and live.problem is None
        if ballast is not None:
            ballast.unlink()
        else:
            mount("-o", "remount,rw", disk)
        edits["add"]()  # type: ignore[operator]
        assert verify_snapshot(IndexLayout(index_dir).published_dir()).manifest.count == COUNT + 20
        assert not list(index_dir.rglob(".tmp-*"))
    promise(f"{how.replace('-', '_')}_disk.edits_refused_by_name", told / len(edits), "of 1", at_least=1)


def test_the_gateway_says_that_the_disk_is_full_and_goes_on_reading(disk: Path, tmp_path: Path) -> None:
    picture = save_picture(tmp_path / "new.png", 4711).read_bytes()
    secret, entry = new_key("ops", "admin")
    png = {"content-type": "image/png"}
    with (
        standing_behind(ColoursBehind()) as (upstream, _),
        running_gateway(upstream_url=upstream, index_dir=disk / "index", keys=[entry], rate="") as url,
        client_of(url, secret) as client,
    ):
        ballast = fill(disk)
        for _ in range(3):
            reply = client.put("/items/new", content=picture, headers=png)
            assert (reply.status_code, reply.json()["error"]["code"]) == (507, "not_stored"), reply.text
            reply = client.delete("/items/item-3")
            assert (reply.status_code, reply.json()["error"]["code"]) == (507, "not_stored"), reply.text
        assert client.get("/items/item-3").status_code == 200
        assert client.get("/index").json()["count"] == COUNT
        ballast.unlink()
        assert client.put("/items/new", content=picture, headers=png).status_code == 201
        assert client.delete("/items/item-3").status_code == 200


def test_a_router_that_pulls_onto_a_full_disk_keeps_its_version(disk: Path, tmp_path: Path) -> None:
    target = IndexStore(open_store(str(tmp_path / "store")))
    index_dir = disk / "index"
    source = tmp_path / "source"
    IndexEditor(source, IndexSettings()).build(catalogue_of(tmp_path, 300), ColourEmbedder())
    target.publish(IndexLayout(source).published_dir(), None)
    before = IndexLayout(index_dir).current_version()
    ballast = fill(disk)
    with pytest.raises(NotStored, match="no space left"):
        IndexPuller(target, index_dir, 3).pull().check()
    assert IndexLayout(index_dir).current_version() == before
    assert verify_snapshot(IndexLayout(index_dir).published_dir()).manifest.count == COUNT
    ballast.unlink()
    IndexPuller(target, index_dir, 3).pull().check()
    assert verify_snapshot(IndexLayout(index_dir).published_dir()).manifest.count == 300
