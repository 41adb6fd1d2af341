"""A trained task behind TorchServe's loader: one label a row, and an own error for a bad row."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.labels.export import HANDLER, export_task
from lookalike.labels.folders import load_embedder
from lookalike.labels.task import read_task
from tests.handlers.conftest import CONFIG_FILE, ROOT, LoadedHandler
from tests.label_samples import write_task
from training.labels.train import train_task, write_trained

EMBEDDER = ROOT / "var/models/embedder"


def jpeg(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), colour).save(buffer, "JPEG")
    return buffer.getvalue()


RED, BLUE = jpeg((200, 40, 40)), jpeg((40, 40, 200))


@pytest.fixture(scope="module")
def colours(tmp_path_factory, load_handler) -> LoadedHandler:
    if not (EMBEDDER / "model.json").exists():
        pytest.fail(f"{EMBEDDER} is not built: run `make models`")
    root: Path = tmp_path_factory.mktemp("project")
    (root / "model_store").symlink_to(ROOT / "model_store")
    task = read_task(write_task(root / "data"))
    write_trained(train_task(task, load_embedder(EMBEDDER, threads=1), None), task, root / "trained")
    model_dir = export_task(root / "trained", root, EMBEDDER)
    return LoadedHandler("colours", model_dir, HANDLER, ROOT / "model_store/label_task" / CONFIG_FILE)


def test_an_image_gets_its_label_with_the_scores_of_all(colours):
    answer = colours.post(RED, content_type="image/jpeg")
    assert answer.status == 200
    reply = answer.json()
    assert (reply["label"], list(reply["scores"])) == ("red", ["red", "blue"])
    assert reply["score"] == max(reply["scores"].values())
    assert sum(reply["scores"].values()) == pytest.approx(1, abs=1e-5)
    assert reply["sure"] == (reply["score"] >= 0.95)


def test_rows_share_a_batch_and_a_bad_one_gets_its_own_error(colours):
    image = {"content-type": "image/jpeg"}
    answers = colours.predict([({"body": RED}, image), ({"body": b"no image"}, image), ({"body": BLUE}, image)])
    assert [answer.status for answer in answers] == [200, 415, 200]
    assert [answers[0].json()["label"], answers[2].json()["label"]] == ["red", "blue"]


def test_one_request_holds_one_image(colours):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 224, 224, 3), np.uint8))
    answer = colours.post(buffer.getvalue(), content_type="application/x-npy")
    assert answer.status == 400
    assert "a label task takes one" in answer.json()["error"]["message"]


def test_the_card_names_the_labels_and_the_health_check_runs_the_model(colours):
    assert colours.get("info").json()["labels"] == ["red", "blue"]
    assert colours.get("healthz").json() == {"ready": True}
