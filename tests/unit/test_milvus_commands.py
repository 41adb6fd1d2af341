"""The commands of a catalogue in Milvus, against a server process: migrations that are killed, errors, collections."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lookalike.cli import app
from lookalike.index.milvus.catalogue import MilvusCatalogue
from lookalike.index.milvus.index import MilvusIndex
from tests.index_samples import files_of, publish
from tests.milvus_running import MilvusServer, milvus_server

MANY = 200  # in calls of two


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    with milvus_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def migrate(server: MilvusServer, *arguments: str) -> "subprocess.Popen[str]":
    small = {
        "LOOKALIKE_MILVUS_URI": server.uri,
        "LOOKALIKE_MILVUS_BATCH_ITEMS": "2",
        "LOOKALIKE_MILVUS_TIMEOUT_S": "10",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "lookalike.cli", "index", "migrate", *arguments],
        env=os.environ | small,
        stdout=-1,
        stderr=-1,
        text=True,
    )


def killed_when(process: "subprocess.Popen[str]", begun: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 60
    while not begun():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end_s
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -9


def settled(count: Callable[[], int]) -> int:
    """Return a count once it stays: the last call of a killed process may still be at work."""
    before, now = -1, count()
    while before != now:
        time.sleep(0.2)
        before, now = now, count()
    return now


def finished(process: "subprocess.Popen[str]") -> str:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def test_a_killed_migration_goes_on_and_doubles_nothing(tmp_path: Path, server: MilvusServer) -> None:
    source, back = publish(tmp_path / "source", count=MANY), tmp_path / "back"
    catalogue = MilvusCatalogue(server.connect(), "killed")

    def some_are_there() -> bool:
        return any(catalogue.stored_count(name) > 20 for name in catalogue.names())

    killed_when(migrate(server, str(source), "milvus:killed"), some_are_there)
    (begun,) = catalogue.names()
    there = settled(lambda: catalogue.stored_count(begun))
    assert catalogue.current() is None
    assert 20 < there < MANY
    output = finished(migrate(server, str(source), "milvus:killed"))
    assert f"moved {MANY - there} items, {there} were there already" in output
    assert (catalogue.names(), catalogue.current()) == ([begun], begun)
    assert MilvusIndex(catalogue, begun).info.count == MANY

    chunks = back / "embeddings"
    killed_when(migrate(server, "milvus:killed", str(back)), lambda: len(list(chunks.glob("*/*.npy"))) > 5)
    read = 2 * len([path for path in chunks.glob("*/*.npy") if not path.name.startswith(".")])
    assert 10 < read < MANY and not (back / "CURRENT").exists()
    output = finished(migrate(server, "milvus:killed", str(back)))
    assert f"moved {MANY - read} items, {read} were there already" in output
    assert files_of(back) == files_of(source)


def test_the_commands_say_what_is_wrong(tmp_path: Path, server: MilvusServer) -> None:
    source = str(publish(tmp_path / "source", count=5))
    for arguments, told in (
        (("--uri", "http://127.0.0.1:9", source, "milvus:x"), "Milvus at http://127.0.0.1:9 failed while connecting"),
        (("--uri", server.uri, source, "milvus:x-y"), "'x-y' is no name of a catalogue in Milvus"),
        (("--uri", server.uri, "milvus:nobody", str(tmp_path / "back")), "no catalogue nobody is published in Milvus"),
    ):
        failed = CliRunner().invoke(app, ["index", "migrate", *arguments])
        assert failed.exit_code == 1
        assert told in str(failed.exception)
    wrong = CliRunner().invoke(app, ["index", "migrate", "a", "b"])
    assert (wrong.exit_code, "the other milvus:CATALOGUE" in " ".join(wrong.output.replace("│", "").split())) == (
        2,
        True,
    )


def test_the_commands_list_change_and_drop_collections(tmp_path: Path, server: MilvusServer) -> None:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--uri", server.uri])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    old, new = (publish(tmp_path / print_[0], count=9, fingerprint=print_) for print_ in ("a" * 16, "b" * 16))
    assert "moved 9 items" in run("index", "migrate", str(old), "milvus:shop")
    assert "is in use: 9 items" in run("index", "migrate", str(new), "milvus:shop", "--new-embedder")
    listed = run("milvus", "list", "--catalogue", "shop").splitlines()
    names = [line.split(" ")[0].rstrip(":") for line in listed]
    assert [line.partition(" ")[2].split(":")[0] for line in listed] == ["(serves the embedder before)", "(serves)"]
    assert "a" * 16 in listed[0] and "about 9 items, flat, 16 x random" in listed[1]
    removed = run("milvus", "remove", "ü/3", "unheard of", "--catalogue", "shop")
    assert f"removed 1; {names[1]} holds 8 items" in removed
    assert f"{names[0]} is in use" in run("milvus", "use", names[0], "--catalogue", "shop")
    assert f"{names[1]} serves no more" in run("milvus", "retire", "--catalogue", "shop")
    assert "there is no collection" in run("milvus", "retire", "--catalogue", "shop")
    assert f"{names[1]} is deleted" in run("milvus", "drop", names[1], "--catalogue", "shop")
    assert run("milvus", "list", "--catalogue", "shop").startswith(f"{names[0]} (serves): about 9 items")
