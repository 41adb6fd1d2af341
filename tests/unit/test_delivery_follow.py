"""The sidecar as it runs: a process of its own beside a live index, on a real S3 server that comes and goes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lookalike.config import IndexSettings, RouterSettings, StoreSettings
from lookalike.delivery.index_store import IndexStore, push_index
from lookalike.delivery.store import open_store
from lookalike.index.edits import IndexEditor
from lookalike.index.layout import IndexLayout
from lookalike.index.live import LiveIndex
from lookalike.index.verify import verify_snapshot
from lookalike.rows import PATH_HEADER, Row
from lookalike.search_service import SearchService
from tests.colour_embedder import ColourEmbedder, catalogue_of
from tests.s3_server import S3Server

POLL_S = "0.2"


def publish(work: Path, url: str, count: int) -> str:
    """Build a version of `count` items in `work` and push it; return its name."""
    editor = IndexEditor(work / "index", IndexSettings())
    editor.build(catalogue_of(work / "images", count), ColourEmbedder())
    return push_index(work / "index", IndexStore(open_store(url, StoreSettings(retry_s=0))), 3)[0].version


@contextmanager
def following(s3: S3Server, url: str, index_dir: Path, *options: str) -> Iterator["subprocess.Popen[str]"]:
    """Run `lookalike index follow`; its log is in `<index_dir>.log`."""
    command = [str(Path(sys.executable).with_name("lookalike")), "index", "follow", url]
    command += ["--index-dir", str(index_dir), "--poll-s", POLL_S, *options]
    environment = {**os.environ, **s3.environment, "LOOKALIKE_STORE_TIMEOUT_S": "5"}
    with index_dir.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def status(index_dir: Path) -> dict[str, str | None]:
    try:
        return dict(json.loads((index_dir / "follow.json").read_text()))
    except FileNotFoundError:
        return {"state": "none", "cause": None, "version": None}


def lines(index_dir: Path) -> list[str]:
    return index_dir.with_suffix(".log").read_text().splitlines()


def wait_until(condition: Callable[[], bool], limit_s: float = 40) -> None:
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come about"
        time.sleep(0.02)


def test_a_router_takes_each_new_version_from_the_follower_beside_it(s3: S3Server, url: str, tmp_path: Path) -> None:
    first = publish(tmp_path, url, 3)
    here = tmp_path / "here"
    with following(s3, url, here), LiveIndex(here, poll_s=0.05) as live:
        wait_until(lambda: live.open_versions() != {} and live.current().info.version == first)
        second = publish(tmp_path, url, 6)
        wait_until(lambda: live.current().info.version == second)
        wait_until(lambda: status(here)["version"] == second)
    assert status(here)["state"] == "ok"


def ended_in_s(process: "subprocess.Popen[str]") -> float:
    """Send SIGTERM, and return how long a successful end took."""
    start_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    return time.monotonic() - start_s


def test_sigterm_ends_it_at_once_with_success(s3: S3Server, url: str, tmp_path: Path) -> None:
    publish(tmp_path, url, 3)
    with following(s3, url, tmp_path / "here") as process:
        wait_until(lambda: status(tmp_path / "here")["state"] == "ok")
        assert ended_in_s(process) < 1


def test_sigterm_ends_it_at_once_while_it_waits_for_a_store_that_hangs(
    s3: S3Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        monkeypatch.setattr(s3, "_port", silent.getsockname()[1])
        with following(s3, url, tmp_path / "here") as process:
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)
                assert ended_in_s(process) < 1


def test_it_outlives_a_store_that_is_down_and_says_so_once(s3: S3Server, url: str, tmp_path: Path) -> None:
    first = publish(tmp_path, url, 3)
    here = tmp_path / "here"
    with following(s3, url, here) as process:
        wait_until(lambda: status(here)["version"] == first)
        s3.stop()
        try:
            wait_until(lambda: status(here)["state"] == "failing")
            time.sleep(2)
            assert "the store cannot be reached" in str(status(here)["cause"])
            assert (status(here)["version"], process.poll()) == (first, None)
        finally:
            s3.start_again()
        second = publish(tmp_path, url, 6)
        wait_until(
            lambda: (
                status(here) | {"checked": ""}
                == {
                    "url": url,
                    "state": "ok",
                    "cause": None,
                    "version": second,
                    "checked": "",
                }
            )
        )
    assert sum("the store cannot be reached" in line for line in lines(here)) == 1
    assert sum(f"following {url} again" in line for line in lines(here)) == 1


def test_a_damaged_version_is_named_and_the_next_good_one_is_taken(s3: S3Server, url: str, tmp_path: Path) -> None:
    first = publish(tmp_path, url, 3)
    here = tmp_path / "here"
    with following(s3, url, here):
        wait_until(lambda: status(here)["version"] == first)
        prefix = url.removeprefix(f"s3://{s3.bucket}/")
        bad = publish_unseen(tmp_path, s3, url, prefix, 5)
        wait_until(lambda: f"{bad}/vectors.npy was altered" in str(status(here)["cause"]))
        assert status(here)["version"] == first
        good = publish(tmp_path, url, 7)
        wait_until(lambda: status(here)["version"] == good)
    assert IndexLayout(here).version_names() == [first, good]


def publish_unseen(work: Path, s3: S3Server, url: str, prefix: str, count: int) -> str:
    """Publish a version of which a file is altered before anybody can see it."""
    before = s3.get(f"{prefix}/CURRENT")
    editor = IndexEditor(work / "index", IndexSettings())
    manifest = editor.build(catalogue_of(work / "images", count), ColourEmbedder()).manifest
    target = IndexStore(open_store(url, StoreSettings(retry_s=0)))
    folder = IndexLayout(work / "index").published_dir()
    for name in manifest.files:
        s3.put(f"{prefix}/versions/{manifest.version}/{name}", (folder / name).read_bytes())
    s3.alter(f"{prefix}/versions/{manifest.version}/vectors.npy")
    assert s3.get(f"{prefix}/CURRENT") == before
    push_index(work / "index", target, 3)
    return manifest.version


def test_two_followers_each_have_every_version(s3: S3Server, url: str, tmp_path: Path) -> None:
    publish(tmp_path, url, 3)
    folders = [tmp_path / "one", tmp_path / "two"]
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(following(s3, url, folder))
        for count in (4, 5):
            version = publish(tmp_path, url, count)
            wait_until(lambda version=version: all(status(folder)["version"] == version for folder in folders))
    for folder in folders:
        assert verify_snapshot(IndexLayout(folder).published_dir()).manifest.version == version


def test_two_followers_of_one_folder_do_not_harm_each_other(s3: S3Server, url: str, tmp_path: Path) -> None:
    publish(tmp_path, url, 3)
    here = tmp_path / "here"
    with following(s3, url, here), following(s3, url, here), LiveIndex(here, poll_s=0.02) as live:
        for count in (4, 5, 6):
            version = publish(tmp_path, url, count)
            wait_until(lambda version=version: version in live.open_versions().values())
            assert live.problem is None


def test_a_follower_that_was_killed_half_way_publishes_nothing_half(s3: S3Server, url: str, tmp_path: Path) -> None:
    first = publish(tmp_path, url, 3)
    here = tmp_path / "here"
    with following(s3, url, here):
        wait_until(lambda: status(here)["version"] == first)
    second = publish(tmp_path, url, 9)
    vectors = (tmp_path / f"index/versions/{second}/vectors.npy").read_bytes()
    part = here / f".arriving/{second}/vectors.npy.part"  # as a kill leaves it
    part.parent.mkdir(parents=True)
    part.write_bytes(vectors[:200])
    with LiveIndex(here, poll_s=3600) as live:
        assert live.current().info.version == first
    with following(s3, url, here):
        wait_until(lambda: status(here)["version"] == second)
    assert (here / f"versions/{second}/vectors.npy").read_bytes() == vectors
    assert not list((here / ".arriving").iterdir())


@pytest.mark.parametrize(
    ("endpoint", "cause"),
    [(None, "nothing/here holds no index version"), ("http://127.0.0.1:9", "the store cannot be reached: ")],
)
def test_a_router_without_an_index_is_alive_and_names_why_none_arrives(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str | None, cause: str
) -> None:
    if endpoint is not None:
        monkeypatch.setattr(S3Server, "endpoint", endpoint)
    here = tmp_path / "here"
    service = SearchService(RouterSettings(index_dir=here, embedder_url="http://127.0.0.1:9", deadline_ms=500))
    try:
        with following(s3, s3.url("nothing/here"), here):
            wait_until(lambda: status(here)["state"] == "failing")
            (reply,) = service.respond([Row("probe", {PATH_HEADER: "healthz"})])
    finally:
        service.close()
    body = json.loads(reply.body)
    assert (reply.status, body["ready"]) == (503, False)
    assert "its delivery fails: " in body["checks"]["index"]
    assert cause in body["checks"]["index"]
    assert body["delivery"]["state"] == "failing"


def test_what_cannot_heal_ends_it_with_one_line(s3: S3Server, tmp_path: Path) -> None:
    with following(s3, "foo://bucket/index", tmp_path / "here") as process:
        assert process.wait(30) == 1
    assert [line[:7] for line in lines(tmp_path / "here")] == ["error: "]
