"""A task is trained, calibrated and written; its features are read once; predictions become lists."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lookalike.errors import InvalidRequest, SetupError
from lookalike.labels.features import FeatureReader, PreparedImages
from lookalike.labels.folders import reader_of, task_name, task_preprocess
from lookalike.labels.head import LabelHead, softmax
from lookalike.labels.lists import images_to_label, training_examples
from lookalike.labels.prediction import predict, read_scores, write_predictions
from lookalike.labels.task import TaskSettings, read_task
from tests.label_samples import PREPROCESS, ColourSession, colour_embedder, save_image, write_task
from training.labels.analysis import analyze_task
from training.labels.figures import figures_of
from training.labels.fit import best_temperature, fit_head
from training.labels.train import train_task, write_trained


@pytest.fixture
def trained(tmp_path):
    task = read_task(write_task(tmp_path))
    result = train_task(task, colour_embedder(), tmp_path / "cache")
    write_trained(result, task, tmp_path / "trained")
    return tmp_path / "trained"


def test_a_trained_task_knows_its_labels_on_images_that_it_never_saw(tmp_path, trained):
    head = LabelHead.load(trained)
    assert head.card.labels == ["red", "blue"]
    save_image(tmp_path / "new/a.png", "blue", seed=99)
    reader = reader_of(head, colour_embedder(), None)
    found = predict(head, reader, images_to_label(tmp_path / "new", tmp_path), 0.95, "stop")
    assert [(p.name, p.label, p.sure) for p in found.predictions] == [("a.png", "blue", True)]


def test_training_twice_gives_the_same_head(tmp_path):
    task = read_task(write_task(tmp_path))
    first, second = (train_task(task, colour_embedder(), None) for _ in range(2))
    assert first.card == second.card


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_class_weights_let_a_rare_label_count(head, monkeypatch):
    monkeypatch.setattr("training.labels.fit.PENALTIES", (0.1,))
    rng = np.random.default_rng(0)
    classes = np.array([0] * 90 + [1] * 10)
    features = (rng.normal(size=(100, 5)) + 1.2 * classes[:, None]).astype(np.float32)
    found = {}
    for power in (0.0, 1.0):
        settings = TaskSettings(head=head, hidden=4, class_weight_power=power, folds=2)
        guesses = fit_head(features, classes, 2, settings).out_of_fold.argmax(axis=1)
        found[power] = float((guesses[classes == 1] == 1).mean())
    assert found[1.0] > found[0.0]


def test_fewer_images_than_features_give_the_same_head_as_the_full_problem(monkeypatch):
    monkeypatch.setattr("training.labels.fit.PENALTIES", (0.1,))
    rng = np.random.default_rng(1)
    classes = np.arange(12) % 2
    features = (rng.normal(size=(12, 20)) + classes[:, None]).astype(np.float32)
    quick = fit_head(features, classes, 2, TaskSettings())
    monkeypatch.setattr("training.labels.fit._rotated", lambda x: (x, np.eye(x.shape[1], dtype=np.float32)))
    full = fit_head(features, classes, 2, TaskSettings())
    np.testing.assert_allclose(quick.tensors["layer.0.weight"], full.tensors["layer.0.weight"], atol=2e-3)


def test_a_label_with_one_image_cannot_be_trained():
    with pytest.raises(SetupError, match="a label has 1 usable images"):
        fit_head(np.eye(4, dtype=np.float32), np.array([0, 0, 0, 1]), 2, TaskSettings())


def test_the_temperature_undoes_overconfidence():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4000, 3)).astype(np.float32)
    classes = np.array([rng.choice(3, p=row) for row in softmax(truth.astype(np.float64))])
    assert best_temperature(truth * 3, classes) == pytest.approx(3, rel=0.12)


def test_an_image_is_decoded_once_and_again_when_it_was_written_since(tmp_path):
    save_image(tmp_path / "a.png", "red", seed=0)
    images = PreparedImages(PREPROCESS, tmp_path / "cache")
    first = images.pixels(tmp_path / "a.png")
    (kept,) = (tmp_path / "cache").rglob("*.npy")
    np.save(kept, first + 1)
    np.testing.assert_array_equal(images.pixels(tmp_path / "a.png"), first + 1)
    save_image(tmp_path / "a.png", "blue", seed=1)
    assert images.pixels(tmp_path / "a.png")[..., 2].mean() > 150


def test_features_are_computed_once_and_again_where_the_cache_is_damaged(tmp_path):
    session, task = ColourSession(), read_task(write_task(tmp_path))
    reader = FeatureReader(colour_embedder(session), PREPROCESS, tmp_path / "cache")
    first = reader.read(training_examples(task), "x")
    np.testing.assert_array_equal(reader.read(training_examples(task), "x").features, first.features)
    assert session.images == 16
    for kept in list((tmp_path / "cache/features").rglob("*.npy"))[:3]:
        kept.write_bytes(b"")
    np.testing.assert_array_equal(reader.read(training_examples(task), "x").features, first.features)
    assert session.images == 19


def test_an_unreadable_image_stops_the_training_or_is_left_out(tmp_path):
    task = read_task(write_task(tmp_path))
    (tmp_path / "imgroot/blue/3.png").write_bytes(b"no image")
    with pytest.raises(SetupError, match=r"lists/blue:4: blue/3\.png"):
        train_task(task, colour_embedder(), None)
    skipping = dataclasses.replace(task, settings=task.settings.model_copy(update={"bad_input": "skip"}))
    assert len(train_task(skipping, colour_embedder(), None).training.examples) == 15


def test_predictions_become_one_list_a_label_and_json(tmp_path, trained):
    head = LabelHead.load(trained)
    (tmp_path / "imgroot/red/1.png").write_bytes(b"no image")
    images = images_to_label(tmp_path / "lists/red", tmp_path / "imgroot")
    found = predict(head, reader_of(head, colour_embedder(), None), images, 0.95, "skip")
    written = write_predictions(found, head.card.labels, tmp_path / "out/batch")
    names = {path.name: path for path in written}
    assert set(names) == {"batch.red", "batch.blue", "batch.inconclusive", "batch.unreadable", "batch.json"}
    assert names["batch.red"].read_text().splitlines()[:2] == ["red/0.png", "red/2.png"]
    assert names["batch.blue"].read_text() == ""
    assert names["batch.unreadable"].read_text() == "red/1.png\n"
    entries = json.loads(names["batch.json"].read_text())
    assert entries[0]["label"] == "red"
    assert "lists/red:2" in entries[-1]["error"]


def test_a_score_on_the_line_is_sure_and_one_below_is_inconclusive():
    assert read_scores(["a", "b"], np.array([0.95, 0.05], np.float32), 0.95 - 1e-6).sure
    assert not read_scores(["a", "b"], np.array([0.94, 0.06], np.float32), 0.95).sure


def test_the_analysis_lists_what_confused_the_model_with_file_and_line(tmp_path):
    file = write_task(tmp_path, images=20)
    save_image(tmp_path / "imgroot/red/5.png", "blue", seed=5)  # a wrong label
    task = read_task(file)
    write_trained(train_task(task, colour_embedder(), None), task, tmp_path / "trained")
    report = analyze_task(tmp_path / "trained", tmp_path / "analysis")
    confused = json.loads((tmp_path / "analysis/confused.json").read_text())
    assert (confused[0]["file_name"], confused[0]["predicted"], confused[0]["line"]) == ("red/5.png", "blue", 6)
    lists = [path for path in (tmp_path / "analysis").iterdir() if path.name.startswith(("relabel", "inconclusive"))]
    assert any("red/5.png" in path.read_text() for path in lists)
    assert "red/5.png" in report.read_text()
    assert {"confusion.png", "mistakes.png"} <= {path.name for path in report.parent.iterdir()}


def test_figures_are_those_of_a_hand_written_table():
    scores = np.array([[0.96, 0.04], [0.6, 0.4], [0.02, 0.98], [0.7, 0.3]], np.float32)
    figures = figures_of(scores, np.array([0, 1, 1, 0]), 0.95)
    assert (figures.accuracy, figures.sure, figures.accuracy_when_sure) == (0.75, 0.5, 1.0)
    assert figures.log_loss == pytest.approx(-np.log([0.96, 0.4, 0.98, 0.7]).mean(), abs=1e-5)


def test_an_altered_head_is_refused(trained):
    tensors = load_file(trained / "head.safetensors")
    tensors["layer.0.bias"] = tensors["layer.0.bias"] + 1
    save_file(tensors, trained / "head.safetensors")
    with pytest.raises(SetupError, match="has sha256"):
        LabelHead.load(trained)


def test_a_head_refuses_features_of_another_embedder_or_shape(trained):
    head = LabelHead.load(trained)
    with pytest.raises(SetupError, match="trained on the features of embedder c010c010c010c010, not of feed"):
        reader_of(head, colour_embedder(fingerprint="feed"), None)
    with pytest.raises(InvalidRequest, match=r"features have shape \(2, 5\)"):
        head.scores(np.zeros((2, 5), np.float32))


def test_another_input_size_names_the_command_that_builds_it():
    with pytest.raises(SetupError) as refused:
        task_preprocess(colour_embedder(), TaskSettings(input_px=320))
    assert "--input-px 320" in str(refused.value.allowed)


def test_a_task_is_named_by_its_name_or_its_file():
    assert (task_name("ants-or-bees"), task_name("tasks/ants-or-bees.yaml")) == ("ants-or-bees", "ants-or-bees")
