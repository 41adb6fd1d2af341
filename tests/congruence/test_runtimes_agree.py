"""The same pixels give the same results on every runtime, whatever the batch."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lookalike.config import ModelSettings
from lookalike.model_store import MODEL_FILE, read_preprocess
from lookalike.runtimes import Runtime, Session, is_installed, load_session

MODELS = Path(__file__).parents[2] / "var" / "models"
RUNTIMES: tuple[Runtime, ...] = ("onnx", "openvino", "torch")
BATCHES = (1, 2, 3, 8)


def pixels_for(model: str, count: int) -> NDArray[np.uint8]:
    """Return pictures of a lit ball, each elsewhere: on noise the detector's scores would stay at their floor."""
    preprocess = read_preprocess(MODELS / model)
    pictures = []
    for shift in range(count):
        picture = Image.new("RGB", (320, 240), (226, 222, 214))
        left, top = 30 + 12 * shift, 40 + 6 * shift
        for step in range(50):  # lit from the upper left
            box = (left + step, top + step, left + 150 - step * 2, top + 150 - step * 2)
            ImageDraw.Draw(picture).ellipse(box, fill=(200 + step, 110 + step * 2, 10 + step))
        pictures.append(preprocess.fit(picture))
    return np.stack(pictures)


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    if not is_installed(request.param):
        pytest.skip(f"runtime {request.param} is not installed")
    return request.param


def session_of(model: str, runtime: Runtime) -> Session:
    if not (MODELS / model / MODEL_FILE).exists():
        pytest.skip(f"var/models/{model} is not built: python -m training.export --models {model}")
    return load_session(MODELS / model, ModelSettings(runtime=runtime, device="cpu", threads=1))


@pytest.fixture(scope="module")
def embedder(runtime: Runtime) -> Session:
    return session_of("embedder", runtime)


@pytest.fixture(scope="module")
def detector(runtime: Runtime) -> Session:
    return session_of("detector", runtime)


@pytest.mark.parametrize("count", BATCHES)
@pytest.mark.parametrize("model", ["embedder", "metadata_creator"])
def test_features_agree_with_the_reference_runtime(runtime: Runtime, model: str, count: int) -> None:
    pixels = pixels_for(model, count)
    expected, found = session_of(model, "onnx").run(pixels), session_of(model, runtime).run(pixels)
    assert found.keys() == expected.keys() == {"embedding", "features"}
    np.testing.assert_allclose(found["embedding"], expected["embedding"], atol=1e-5)
    np.testing.assert_allclose(found["features"], expected["features"], atol=1e-4)


@pytest.mark.parametrize("count", BATCHES)
def test_detections_agree_with_the_reference_runtime(detector: Session, count: int) -> None:
    pixels = pixels_for("detector", count)
    expected, found = session_of("detector", "onnx").run(pixels), detector.run(pixels)
    assert found.keys() == expected.keys() == {"boxes", "scores", "labels"}
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.02)
    # A score is the root of a product: near zero the root alone magnifies the last bit, so the products are compared.
    np.testing.assert_allclose(found["scores"] ** 2, expected["scores"] ** 2, atol=1e-5)
    # Rounding may swap two classes of the same score; a candidate that matters has one best class.
    sure = expected["scores"] > 0.1
    assert sure.any()
    np.testing.assert_array_equal(found["labels"][sure], expected["labels"][sure])


def test_outputs_have_the_same_dtypes_on_every_runtime(detector: Session, embedder: Session) -> None:
    found = detector.run(pixels_for("detector", 2)) | embedder.run(pixels_for("embedder", 2))
    dtypes = {name: output.dtype for name, output in found.items()}
    assert dtypes.pop("labels") == np.int64
    assert set(dtypes.values()) == {np.dtype(np.float32)}


def test_a_row_does_not_depend_on_its_batch(embedder: Session) -> None:
    pixels = pixels_for("embedder", 3)
    together, alone = embedder.run(pixels)["embedding"], embedder.run(pixels[1:2])["embedding"]
    np.testing.assert_allclose(together[1:2], alone, atol=1e-5)


def test_results_outlive_the_next_call(embedder: Session) -> None:
    pixels = pixels_for("embedder", 2)
    first = embedder.run(pixels[:1])["embedding"]
    kept = first.copy()
    embedder.run(pixels[1:])
    np.testing.assert_array_equal(first, kept)
