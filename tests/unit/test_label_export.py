"""A trained task becomes a model folder that the server's archives are built from, without touching what is listed."""

import json
import zipfile
from pathlib import Path

import pytest
import yaml

from lookalike.archives import ArchiveSources, build_archives
from lookalike.errors import SetupError
from lookalike.labels.export import export_task
from lookalike.labels.head import LabelHead
from lookalike.labels.task import read_task
from lookalike.model_store import BuiltModel, read_built_model, read_preprocess, sha256_of
from tests.label_samples import PREPROCESS, colour_embedder, write_task
from training.labels.train import train_task, write_trained

FINGERPRINT = "c010c010c010c010"


@pytest.fixture
def project(tmp_path) -> Path:
    """A project whose embedder is built, with a trained task `colours` in `trained/`."""
    root = tmp_path / "project"
    embedder = root / "var/models/embedder"
    for folder in (embedder, root / "handlers", root / "model_store/label_task", root / "model_store/embedder"):
        folder.mkdir(parents=True)
    for name in ("model.onnx", "model.pt2"):
        (embedder / name).write_bytes(name.encode())
    (embedder / "preprocess.json").write_text(PREPROCESS.model_dump_json())
    built = BuiltModel(
        name="embedder",
        version="1.0",
        architecture="colours",
        fingerprint=FINGERPRINT,
        licence="MIT",
        dim=6,
        feature_dim=6,
        recipe="r",
        files={path.name: sha256_of(path) for path in embedder.iterdir()},
    )
    (embedder / "model.json").write_text(built.model_dump_json())
    entry = {"version": "1.0", "handler": "embedder_handler.py", "architecture": "colours", "licence": "MIT"}
    (root / "model_store/models.yaml").write_text(yaml.safe_dump({"models": {"embedder": entry}}))
    for name in ("embedder", "label_task"):
        (root / f"model_store/{name}/model-config.yaml").write_text("minWorkers: 1\n")
    for name in ("embedder_handler.py", "label_handler.py"):
        (root / "handlers" / name).write_text("class Handler: ...\n")
    task = read_task(write_task(tmp_path / "data", more="resize: left\nversion: 1.2\n"))
    write_trained(train_task(task, colour_embedder(), None), task, root / "trained")
    return root


def export(root: Path) -> Path:
    return export_task(root / "trained", root, root / "var/models/embedder")


def test_without_a_task_only_the_listed_models_are_packed(project, tmp_path):
    assert set(build_archives(ArchiveSources.of(project), tmp_path / "out")) == {"embedder"}


def test_an_exported_task_is_packed_with_its_handler_head_and_version(project, tmp_path):
    export(project)
    archive = build_archives(ArchiveSources.of(project), tmp_path / "out")["colours"]
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
        model = json.loads(opened.read("MAR-INF/MANIFEST.json"))["model"]
    assert {"label_handler.py", "model-config.yaml", "head.safetensors", "labels.json", "model.onnx"} <= names
    assert (model["modelName"], model["modelVersion"]) == ("colours", "1.2")


def test_the_model_folder_names_labels_geometry_and_files(project):
    folder = export(project)
    built = read_built_model(folder)
    assert built.labels == ["red", "blue"]
    assert read_preprocess(folder).resize == "left"
    assert built.files == {path.name: sha256_of(path) for path in folder.iterdir() if path.name != "model.json"}
    assert LabelHead.load(folder).card.name == "colours"


def test_another_calibration_gives_another_fingerprint(project):
    before = read_built_model(export(project)).fingerprint
    assert read_built_model(export(project)).fingerprint == before
    card = json.loads((project / "trained/labels.json").read_text())
    (project / "trained/labels.json").write_text(json.dumps({**card, "temperature": card["temperature"] * 2}))
    assert read_built_model(export(project)).fingerprint != before


def test_a_task_cannot_take_the_name_of_another_model(project):
    card = json.loads((project / "trained/labels.json").read_text())
    (project / "trained/labels.json").write_text(json.dumps({**card, "name": "embedder"}))
    with pytest.raises(SetupError, match="'embedder' is the name of another model"):
        export(project)


def test_a_task_that_was_trained_on_another_embedder_is_refused(project):
    description = project / "var/models/embedder/model.json"
    description.write_text(description.read_text().replace(FINGERPRINT, "feedfeedfeedfeed"))
    with pytest.raises(SetupError, match="trained on the features of embedder c010c010c010c010"):
        export(project)
