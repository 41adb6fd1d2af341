"""Moving a catalogue between an index folder and Milvus: the same afterwards, also after a kill -9, or not at all."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from lookalike.cli import app
from lookalike.config import IndexSettings
from lookalike.errors import IndexDamaged, IndexMismatch, IndexUnavailable
from lookalike.index.faiss_index import open_index
from lookalike.index.items import ItemRecord
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import BuildSettings, Kind
from lookalike.index.milvus.catalogue import MilvusCatalogue
from lookalike.index.milvus.index import MilvusIndex
from lookalike.index.milvus.migrate import Options, folder_to_milvus, milvus_to_folder
from lookalike.index.store import KnownEmbeddings
from lookalike.index.verify import verify_snapshot
from lookalike.index.writer import Draft, IndexWriter
from tests.milvus_running import MilvusServer, catalogue_in, milvus_server

COUNT, DIM = 600, 16
SETTINGS = IndexSettings()
OPTIONS = Options(sample=30)
MANY = 200  # in calls of two


def embeddings_of(count: int) -> NDArray[np.float32]:
    made = np.random.default_rng(0).standard_normal((count, DIM)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def records_of(count: int) -> list[ItemRecord]:
    return [
        ItemRecord(
            f"ü/{number}",
            hashlib.sha256(str(number).encode()).digest(),
            f"/images/{number}.jpg",
            f"Nr. {number}" if number % 2 else None,
            "" if number % 5 else f"https://shop/{number}",
            {"half": str(number % 2)} if number % 3 else {},
        )
        for number in range(count)
    ]


def publish(folder: Path, kind: Kind = "flat", count: int = COUNT, fingerprint: str = "f" * 16) -> Path:
    known, records = KnownEmbeddings(DIM), records_of(count)
    known.include([record.content_sha256 for record in records], embeddings_of(count))
    build = BuildSettings(hnsw_m=16, ef_construction=80) if kind == "hnsw" else BuildSettings()
    with IndexWriter(folder) as writer:
        writer.publish(Draft("random", fingerprint, DIM, kind, build, records), known, base=None)
    return folder


def files_of(folder: Path) -> tuple[bytes, ...]:
    version = verify_snapshot(IndexLayout(folder).published_dir()).version_dir
    return tuple((version / name).read_bytes() for name in ("vectors.npy", "items.arrow"))


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
