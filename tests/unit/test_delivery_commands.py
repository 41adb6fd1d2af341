"""The commands around a store: what they print, and that an error is one line and exit code 1."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lookalike.cli import app
from lookalike.config import IndexSettings, StoreSettings
from lookalike.delivery.builds import Build
from lookalike.delivery.index_store import IndexStore
from lookalike.delivery.shards import ShardBuilder
from lookalike.delivery.store import open_store
from lookalike.errors import IndexUnavailable, LookalikeError, StoreMoved
from lookalike.index.edits import IndexEditor
from lookalike.index.layout import IndexLayout
from lookalike.ingest import IngestOptions
from tests.colour_embedder import ColourEmbedder, catalogue_of
from tests.unit.test_delivery_models import write_set

NEXT = "e" * 16


def told(*arguments: object) -> str:
    """Return what a command that succeeds prints."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refusal(*arguments: object) -> LookalikeError:
    """Return the error that a command ends with; `main` tells it in one line."""
    error = CliRunner().invoke(app, [*map(str, arguments)]).exception
    assert isinstance(error, LookalikeError), error
    return error


def build(index_dir: Path, count: int, fingerprint: str = ColourEmbedder().fingerprint) -> str:
    editor = IndexEditor(index_dir, IndexSettings())
    return editor.build(catalogue_of(index_dir.parent / "images", count), ColourEmbedder(fingerprint)).manifest.version


def test_models_go_and_come(url: str, tmp_path: Path) -> None:
    pushed = told("models", "push", url, "--archives", write_set(tmp_path / "archives"))
    assert pushed == f"{url} holds embedder, search; embedder {'0' * 16}\n"
    first, second = (told("models", "pull", url, "--to", tmp_path / "here") for _ in range(2))
    assert "(2 fetched)" in first
    assert "(0 fetched)" in second


def test_an_index_goes_and_comes_and_its_store_says_what_it_holds(url: str, tmp_path: Path) -> None:
    index_dir = tmp_path / "index"
    old = build(index_dir, 3)
    assert told("index", "push", url, "--index-dir", index_dir) == f"{old} is published in {url}\n"
    assert told("index", "push", url, "--index-dir", index_dir) == f"{old} was in use already in {url}\n"
    new = build(index_dir, 5, NEXT)
    told("index", "push", url, "--index-dir", index_dir)
    assert told("index", "status", url) == (
        f"{new}: 5 items of embedder {NEXT}, in use\n"
        f"{old}: 3 items of embedder {ColourEmbedder().fingerprint}, of the embedder before\n"
    )
    assert "fetched" in told("index", "pull", url, "--index-dir", tmp_path / "here")
    assert "was here" in told("index", "pull", url, "--index-dir", tmp_path / "here")
    assert told("index", "retire", "--index-dir", tmp_path / "here") == f"{old} is retired\n"
    assert told("index", "retire", "--at", url) == f"{old} is retired\n"
    assert told("index", "retire", "--at", url) == "there is none to retire\n"
    assert told("index", "use", old, "--at", url) == f"{old} is in use at {url}\n"
    assert IndexStore(open_store(url)).pointers() == (old, new)


def test_only_the_index_of_the_pulled_models_counts(url: str, tmp_path: Path) -> None:
    index_dir, archives = tmp_path / "index", write_set(tmp_path / "archives", seed=7)
    build(index_dir, 3)
    told("index", "push", url, "--index-dir", index_dir)
    for command in (["status", url], ["pull", url, "--index-dir", tmp_path / "here"]):
        error = refusal("index", *command, "--models", archives)
        assert isinstance(error, IndexUnavailable)
        assert f"holds no index of embedder {7:016x}" in error.message
    version = build(index_dir, 3, f"{7:016x}")
    told("index", "push", url, "--index-dir", index_dir)
    told("index", "pull", url, "--index-dir", tmp_path / "here", "--models", archives)
    assert IndexLayout(tmp_path / "here").current_version() == version


def test_an_empty_store_and_a_lost_race_are_errors(url: str, tmp_path: Path) -> None:
    assert isinstance(refusal("index", "status", url), IndexUnavailable)
    for name in ("one", "two"):
        build(tmp_path / name / "index", 3 if name == "one" else 4)
    told("index", "push", url, "--index-dir", tmp_path / "one/index")
    assert isinstance(refusal("index", "push", url, "--index-dir", tmp_path / "two/index"), StoreMoved)


def test_a_build_is_published_by_its_name(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = IndexStore(open_store(url, StoreSettings(retry_s=0)))
    catalogue = catalogue_of(tmp_path / "images", 6)
    for index in range(2):
        work = tmp_path / f"work-{index}"
        work.mkdir()
        builder = ShardBuilder(target, Build(target.store, "nightly"), index, 2, work)
        builder.run(catalogue, ColourEmbedder(), IngestOptions(threads=1), IndexSettings())
    monkeypatch.setenv("LOOKALIKE_BUILD", "nightly")
    first, second = (told("index", "publish", "--from", url) for _ in range(2))
    assert "is published: 6 items, flat" in first
    assert "stays: nothing changed: 6 items, flat" in second


def test_any_place_that_fsspec_knows_can_be_a_store(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    version = build(tmp_path / "index", 3)
    told("index", "push", url, "--index-dir", tmp_path / "index")
    told("index", "pull", url, "--index-dir", tmp_path / "here")
    assert IndexLayout(tmp_path / "here").current_version() == version
    kept = json.loads((tmp_path / "here/.origin").read_text())
    assert kept == {"url": url, "version": version}
