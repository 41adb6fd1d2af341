"""What the built embedder says of pictures whose likeness is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from lookalike.config import ModelSettings
from lookalike.embedding import Embedder
from lookalike.errors import InvalidRequest, SetupError
from lookalike.model_store import MODEL_FILE

MODELS = Path(__file__).parents[2] / "var" / "models"


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    if not (MODELS / "embedder" / MODEL_FILE).exists():
        pytest.skip("var/models/embedder is not built: python -m training.export --models embedder")
    return Embedder.load(MODELS / "embedder", ModelSettings(threads=1, max_images=4))


def picture(kind: str, colour: str) -> Image.Image:
    image = Image.new("RGB", (300, 300), "white")
    draw = ImageDraw.Draw(image)
    if kind == "disk":
        draw.ellipse((60, 60, 240, 240), fill=colour)
    else:
        for left in range(0, 300, 40):
            draw.rectangle((left, 0, left + 18, 300), fill=colour)
    return image


def fitted(embedder: Embedder, *images: Image.Image) -> NDArray[np.uint8]:
    return np.stack([embedder.preprocess.fit(image) for image in images])


def test_embeddings_have_unit_length_and_the_promised_sizes(embedder: Embedder) -> None:
    embeddings, features = embedder.embed(fitted(embedder, picture("disk", "red"), picture("stripes", "blue")))
    assert (embeddings.shape, features.shape) == ((2, embedder.dim), (2, embedder.feature_dim))
    assert embeddings.dtype == features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_a_blurred_turned_picture_stays_nearer_than_another_one(embedder: Embedder) -> None:
    disk, stripes = picture("disk", "red"), picture("stripes", "blue")
    relative = disk.rotate(20, fillcolor="white").filter(ImageFilter.GaussianBlur(2))
    query, same, other = embedder.embed(fitted(embedder, disk, relative, stripes)).embeddings
    assert query @ same > query @ other + 0.2


def test_no_crops_give_no_embeddings(embedder: Embedder) -> None:
    nothing = np.empty((0, embedder.preprocess.height_px, embedder.preprocess.width_px, 3), np.uint8)
    embeddings, features = embedder.embed(nothing)
    assert (embeddings.shape, features.shape) == ((0, embedder.dim), (0, embedder.feature_dim))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 224, 224, 3), np.float32),
        ((1, 100, 224, 3), np.uint8),
        ((224, 224, 3), np.uint8),
        ((5, 224, 224, 3), np.uint8),
    ],
)
def test_pixels_of_another_form_are_refused(embedder: Embedder, shape: tuple[int, ...], dtype: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        embedder.embed(np.zeros(shape, dtype))
    assert "n <= 4" in str(refused.value.allowed)


def test_a_detector_is_no_embedder() -> None:
    if not (MODELS / "detector" / MODEL_FILE).exists():
        pytest.skip("var/models/detector is not built: python -m training.export --models detector")
    with pytest.raises(SetupError, match="no embedder"):
        Embedder.load(MODELS / "detector", ModelSettings(threads=1))
