"""Archives hold what TorchServe needs, and are built again only when a part has changed."""

import json
import os
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from lookalike.archives import ArchiveSources, archived_version, build_archives, unpack_archive
from lookalike.errors import SetupError


@pytest.fixture
def sources(tmp_path: Path) -> ArchiveSources:
    # The archiver's own command line would take the comma and the brackets for a list and a pattern.
    root = tmp_path / "a, [b]"
    found = ArchiveSources.of(root)
    for folder in (found.model_store / "embedder", found.model_store / "search", found.models / "embedder"):
        folder.mkdir(parents=True)
    found.handlers.mkdir()
    models = {
        "embedder": {"version": "1.0", "handler": "embedder_handler.py", "architecture": "net", "licence": "MIT"},
        "search": {"version": "2.1", "handler": "search_handler.py", "licence": "Apache-2.0"},
    }
    (found.model_store / "models.yaml").write_text(yaml.safe_dump({"models": models}))
    for name in models:
        (found.model_store / name / "model-config.yaml").write_text("minWorkers: 1\n")
        (found.handlers / f"{name}_handler.py").write_text("class Handler: ...\n")
    (found.models / "embedder/model.onnx").write_bytes(b"graph")
    (found.models / "embedder/model.json").write_text("{}")
    return found


def names_in(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as opened:
        return set(opened.namelist())


def test_an_archive_holds_handler_settings_and_model_files_flat(sources, tmp_path):
    archives = build_archives(sources, tmp_path / "out")
    common = {"model-config.yaml", "MAR-INF/MANIFEST.json"}
    assert names_in(archives["embedder"]) == common | {"embedder_handler.py", "model.onnx", "model.json"}
    assert names_in(archives["search"]) == common | {"search_handler.py"}


def test_the_manifest_carries_the_version(sources, tmp_path):
    archive = build_archives(sources, tmp_path / "out")["search"]
    with zipfile.ZipFile(archive) as opened:
        model = json.loads(opened.read("MAR-INF/MANIFEST.json"))["model"]
    assert (model["modelName"], model["modelVersion"]) == ("search", "2.1")


def test_nothing_is_built_again_when_nothing_has_changed(sources, tmp_path):
    before = {p: p.stat().st_ino for p in build_archives(sources, tmp_path / "out").values()}
    os.utime(sources.models / "embedder/model.onnx")
    start_s = time.perf_counter()
    assert {p: p.stat().st_ino for p in build_archives(sources, tmp_path / "out").values()} == before
    assert time.perf_counter() - start_s < 0.5


@pytest.mark.parametrize(
    "change",
    [
        lambda s: (s.models / "embedder/model.onnx").write_bytes(b"other"),
        lambda s: (s.models / "embedder/labels.txt").write_text("a\n"),
        lambda s: (s.models / "embedder/model.json").unlink(),
        lambda s: (s.handlers / "embedder_handler.py").write_text("class Other: ...\n"),
        lambda s: (s.model_store / "embedder/model-config.yaml").write_text("minWorkers: 2\n"),
    ],
    ids=["altered", "added", "removed", "handler", "settings"],
)
def test_a_changed_part_rebuilds_its_archive_alone(sources, tmp_path, change):
    before = {n: p.stat().st_ino for n, p in build_archives(sources, tmp_path / "out").items()}
    change(sources)
    after = {n: p.stat().st_ino for n, p in build_archives(sources, tmp_path / "out").items()}
    assert after["embedder"] != before["embedder"]
    assert after["search"] == before["search"]


def test_only_archives_and_their_stamps_are_left(sources, tmp_path):
    build_archives(sources, tmp_path / "out")
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"embedder.mar", "embedder.mar.sources", "search.mar", "search.mar.sources"}


@pytest.mark.parametrize("missing", ["handlers/search_handler.py", "model_store/embedder/model-config.yaml"])
def test_a_missing_part_is_named(sources, tmp_path, missing):
    (sources.model_store.parent / missing).unlink()
    with pytest.raises(SetupError, match=Path(missing).name):
        build_archives(sources, tmp_path / "out")


def test_a_model_that_is_not_built_is_named(sources, tmp_path):
    for path in (sources.models / "embedder").iterdir():
        path.unlink()
    (sources.models / "embedder").rmdir()
    with pytest.raises(SetupError, match="model embedder is not built"):
        build_archives(sources, tmp_path / "out")


def test_an_archive_that_cannot_be_unpacked_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"there is no .*none\.mar"):
        unpack_archive(tmp_path / "none.mar", tmp_path / "out")
    (tmp_path / "cut.mar").write_bytes(b"PK\x03\x04cut")
    with pytest.raises(SetupError, match=r"cut\.mar cannot be unpacked"):
        unpack_archive(tmp_path / "cut.mar", tmp_path / "out")


def test_the_version_of_an_archive_is_that_of_models_yaml(sources, tmp_path):
    archives = build_archives(sources, tmp_path / "out")
    assert {name: archived_version(path) for name, path in archives.items()} == {"embedder": "1.0", "search": "2.1"}


@pytest.mark.parametrize("manifest", [None, "{}", "[", '{"model": {"modelVersion": "1 0"}}'])
def test_the_version_of_what_is_no_archive_is_refused(tmp_path, manifest):
    path = tmp_path / "search.mar"
    with pytest.raises(SetupError, match=r"there is no .*search\.mar"):
        archived_version(path)
    path.write_bytes(b"PK")
    if manifest is not None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("MAR-INF/MANIFEST.json", manifest)
    with pytest.raises(SetupError, match=r"search\.mar is no model archive"):
        archived_version(path)
