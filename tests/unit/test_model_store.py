"""models.yaml as it is in the project, and built models that are whole, altered or missing."""

import hashlib
from pathlib import Path

import pytest

from lookalike.errors import SetupError
from lookalike.model_store import (
    MODEL_FILE,
    BuiltModel,
    FileSource,
    fingerprint_of,
    load_entries,
    read_built_model,
    read_preprocess,
    verified_file,
)
from lookalike.preprocessing import Preprocess

STORE = Path(__file__).parents[2] / "model_store"
WEIGHTS = "a" * 64


@pytest.fixture
def built(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    model = BuiltModel(
        name="embedder",
        version="1.0",
        architecture="net",
        fingerprint="0" * 16,
        licence="Apache-2.0",
        recipe="r",
        files={"model.onnx": hashlib.sha256(b"graph").hexdigest()},
    )
    (tmp_path / MODEL_FILE).write_text(model.model_dump_json())
    return tmp_path


def test_every_model_of_the_project_names_its_handler_licence_and_weights() -> None:
    entries = load_entries(STORE / "models.yaml")
    assert {"detector", "embedder", "search"} <= entries.keys()
    for name, entry in entries.items():
        assert entry.licence
        assert (STORE.parent / "handlers" / entry.handler).exists(), name
        assert (entry.source is None) == (entry.weights_sha256 is None), name


def test_weights_kept_in_the_project_have_the_sha256_of_models_yaml() -> None:
    for entry in load_entries(STORE / "models.yaml").values():
        if isinstance(entry.source, FileSource):
            assert hashlib.sha256((STORE / entry.source.file).read_bytes()).hexdigest() == entry.weights_sha256


def test_the_detector_knows_one_label_whatever_the_subject_is() -> None:
    assert (STORE / "detector" / "labels.txt").read_text().splitlines() == ["subject"]


@pytest.mark.parametrize("name", ["detector", "embedder"])
def test_every_network_has_a_readable_preprocessing(name: str) -> None:
    preprocess = read_preprocess(STORE / name)
    assert preprocess.height_px % 32 == preprocess.width_px % 32 == 0


def test_an_unknown_key_in_models_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("models: {m: {version: '1', handler: h.py, licence: MIT, weigths: x}}")
    with pytest.raises(SetupError, match="weigths"):
        load_entries(tmp_path / "models.yaml")


def test_a_whole_file_is_returned(built: Path) -> None:
    assert verified_file(built, "model.onnx") == built / "model.onnx"


def test_an_altered_file_is_refused(built: Path) -> None:
    (built / "model.onnx").write_bytes(b"another")
    with pytest.raises(SetupError, match="sha256"):
        verified_file(built, "model.onnx")


def test_a_missing_file_is_refused(built: Path) -> None:
    (built / "model.onnx").unlink()
    with pytest.raises(SetupError, match="cannot read"):
        verified_file(built, "model.onnx")


def test_a_file_that_the_model_does_not_have_is_refused_with_those_it_has(built: Path) -> None:
    with pytest.raises(SetupError, match=r"model\.pt2") as refused:
        verified_file(built, "model.pt2")
    assert refused.value.allowed == ["model.onnx"]


@pytest.mark.parametrize("text", ["", "{}", '{"name": 1}'])
def test_a_malformed_description_is_refused(built: Path, text: str) -> None:
    (built / MODEL_FILE).write_text(text)
    with pytest.raises(SetupError, match="not a model description"):
        read_built_model(built)


def test_the_fingerprint_changes_with_weights_preprocessing_and_architecture() -> None:
    preprocess = Preprocess(height_px=224, width_px=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    padded = preprocess.model_copy(update={"resize": "pad"})
    fingerprints = {
        fingerprint_of(WEIGHTS, preprocess, "net"),
        fingerprint_of("b" * 64, preprocess, "net"),
        fingerprint_of(WEIGHTS, padded, "net"),
        fingerprint_of(WEIGHTS, preprocess, "other"),
    }
    assert len(fingerprints) == 4
    assert all(len(fingerprint) == 16 for fingerprint in fingerprints)
    assert fingerprint_of(WEIGHTS, preprocess, "net") in fingerprints
