"""The three model handlers answer row by row, on the real default models."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.batching import golden_image
from lookalike.rows import FINGERPRINT_HEADER, NPY_TYPE, NPZ_TYPE

MODELS = ["detector", "embedder", "metadata_creator"]


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("name", MODELS)
def test_a_corrupt_row_in_a_batch_of_eight_leaves_seven_200s(load_handler: Callable[..., Any], name: str) -> None:
    good = ({"body": bytearray(golden_image())}, {})
    truncated = ({"body": bytearray(golden_image()[:900])}, {})
    answers = load_handler(name).predict([good, good, good, truncated, good, good, good, good])
    assert [a.status for a in answers] == [200, 200, 200, 422, 200, 200, 200, 200]
    assert answers[3].json()["error"]["code"] == "corrupt_image"
    assert all("error" not in answer.json() for i, answer in enumerate(answers) if i != 3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("row", "status", "code"),
    [
        ({"body": bytearray(b"")}, 400, "invalid_request"),
        ({"body": bytearray(b"<html>hello</html>")}, 415, "unsupported_image"),
        ({"body": {"image": "no base64!"}}, 400, "invalid_request"),
        ({"body": ["a", "list"]}, 400, "invalid_request"),
        ({"body": {"image": "AAAA", "colour": "red"}}, 415, "unsupported_image"),
        ({}, 400, "invalid_request"),
    ],
    ids=["empty", "html", "base64", "list", "no-image-bytes", "nothing"],
)
def test_a_bad_body_gets_its_own_status(
    load_handler: Callable[..., Any], name: str, row: dict[str, Any], status: int, code: str
) -> None:
    (answer,) = load_handler(name).predict([(row, {})])
    assert (answer.status, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["request_id"] == "request-0"
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("name", MODELS)
def test_the_health_check_runs_the_golden_image(load_handler: Callable[..., Any], name: str) -> None:
    answer = load_handler(name).get("healthz")
    assert (answer.status, answer.json()) == (200, {"ready": True})


@pytest.mark.parametrize("name", MODELS)
def test_the_card_names_the_fingerprint_and_an_unknown_path_is_refused(
    load_handler: Callable[..., Any], name: str
) -> None:
    handler = load_handler(name)
    assert len(handler.get("info").json()["fingerprint"]) == 16
    assert handler.get("admin").status == 404


def test_a_client_request_id_comes_back_unless_it_could_break_a_line(load_handler: Callable[..., Any]) -> None:
    handler = load_handler("detector")
    assert handler.post(golden_image(), X_Request_Id="trace-7").headers["x-lookalike-request-id"] == "trace-7"
    assert handler.post(golden_image(), X_Request_Id="a\nb").headers["x-lookalike-request-id"] == "request-0"


def test_detections_come_in_pixels_of_the_image_that_was_sent(load_handler: Callable[..., Any]) -> None:
    handler = load_handler("detector")
    image = Image.open(io.BytesIO(golden_image()))
    doubled = io.BytesIO()
    image.resize((image.width * 2, image.height * 2)).save(doubled, "PNG")
    small = handler.post(golden_image(), x_lookalike_min_score="0.05").json()["detections"]
    large = handler.post(doubled.getvalue(), x_lookalike_min_score="0.05").json()["detections"]
    assert small
    assert np.allclose(np.array(small[0]["box"]) * 2, large[0]["box"], atol=12)


def test_each_row_keeps_its_own_threshold_inside_a_batch(load_handler: Callable[..., Any]) -> None:
    body = {"body": bytearray(golden_image())}
    rows = [(body, {"x-lookalike-min-score": score}) for score in ("0.01", "0.99", "1.5")]
    low, high, wrong = load_handler("detector").predict(rows)
    assert len(low.json()["detections"]) > len(high.json()["detections"])
    assert wrong.json()["error"]["code"] == "invalid_option"


def test_the_embedder_answers_in_the_form_that_is_asked_for(load_handler: Callable[..., Any]) -> None:
    handler = load_handler("embedder")
    as_json = handler.post(golden_image()).json()
    as_npy = handler.post(golden_image(), accept=NPY_TYPE)
    as_npz = np.load(io.BytesIO(handler.post(golden_image(), accept=NPZ_TYPE).body))
    array = np.load(io.BytesIO(as_npy.body))
    assert array.shape == (1, as_json["dim"])
    assert array.dtype == np.float32
    assert np.allclose(as_json["embeddings"], array, atol=1e-6)
    assert np.allclose(as_npz["embeddings"], array)
    assert np.linalg.norm(array) == pytest.approx(1, abs=1e-5)
    assert as_npy.headers[FINGERPRINT_HEADER] == as_json["fingerprint"]


def test_many_crops_in_one_call_are_embedded_in_order(load_handler: Callable[..., Any]) -> None:
    handler = load_handler("embedder")
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (3, 50, 40, 3), dtype=np.uint8)
    together = np.load(io.BytesIO(handler.post(npy(crops), content_type=NPY_TYPE, accept=NPY_TYPE).body))
    alone = [np.load(io.BytesIO(handler.post(npy(c), content_type=NPY_TYPE, accept=NPY_TYPE).body))[0] for c in crops]
    assert np.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 2), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 4, 3), np.uint8)],
    ids=["grey", "float", "none"],
)
def test_an_array_that_is_no_image_is_refused(load_handler: Callable[..., Any], array: np.ndarray) -> None:
    answer = load_handler("embedder").post(npy(array), content_type=NPY_TYPE)
    assert answer.status == 400
    assert "uint8" in answer.json()["error"]["allowed"]


def test_an_array_is_held_to_the_limits_of_an_image(load_handler: Callable[..., Any]) -> None:
    answer = load_handler("embedder").post(npy(np.zeros((1, 20_000, 3), np.uint8)), content_type=NPY_TYPE)
    assert (answer.status, answer.json()["error"]["code"]) == (413, "image_too_large")


def test_metadata_describes_every_crop_of_a_request(load_handler: Callable[..., Any]) -> None:
    handler = load_handler("metadata_creator")
    (alone,) = handler.post(golden_image()).json()["descriptions"]
    assert {a["name"] for a in alone["attributes"]} >= {"gender", "baseColour", "articleType", "masterCategory"}
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(golden_image())).convert("RGB").resize((224, 224)))] * 3)
    assert len(handler.post(npy(pixels), content_type=NPY_TYPE).json()["descriptions"]) == 3


def test_metadata_takes_no_features(load_handler: Callable[..., Any]) -> None:
    answer = load_handler("metadata_creator").post(npy(np.ones((1, 1280), np.float32)), content_type=NPY_TYPE)
    assert (answer.status, "uint8" in answer.json()["error"]["allowed"]) == (400, True)


def test_the_embedder_describes_in_the_same_request(load_handler: Callable[..., Any]) -> None:
    embedder = load_handler("embedder")
    npz = np.load(io.BytesIO(embedder.post(golden_image(), accept=NPZ_TYPE, x_lookalike_describe="true").body))
    described = json.loads(npz["descriptions"].tobytes())["descriptions"]
    alone = load_handler("metadata_creator").post(golden_image()).json()["descriptions"]
    assert [a["label"] for a in described[0]["attributes"]] == [a["label"] for a in alone[0]["attributes"]]
    assert "descriptions" not in np.load(io.BytesIO(embedder.post(golden_image(), accept=NPZ_TYPE).body))
