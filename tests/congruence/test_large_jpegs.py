"""The default models say the same of a large JPEG, whether it was decoded in full or no larger than they see."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.boxes import box_iou
from lookalike.config import ModelSettings, RouterSettings
from lookalike.detection import Detector
from lookalike.embedding import Embedder
from lookalike.golden.draw import draw_golden_image
from lookalike.images import DecodedImage, decode_image
from lookalike.model_store import MODEL_FILE
from lookalike.scene import compose_scene
from lookalike.schemas import Box

MODELS = Path(__file__).parents[2] / "var" / "models"
ROUTER = RouterSettings()
STORED = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


def settings() -> ModelSettings:
    return ModelSettings(runtime="onnx", device="cpu", threads=1)


@pytest.fixture(scope="module")
def detector() -> Detector:
    if not (MODELS / "detector" / MODEL_FILE).exists():
        pytest.skip("var/models/detector is not built: python -m training.export --models detector")
    return Detector.load(MODELS / "detector", settings())


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    if not (MODELS / "embedder" / MODEL_FILE).exists():
        pytest.skip("var/models/embedder is not built: python -m training.export --models embedder")
    return Embedder.load(MODELS / "embedder", settings())


@pytest.fixture(scope="module")
def scene() -> tuple[Image.Image, Box]:
    image, box = compose_scene(draw_golden_image().convert("RGBA").resize((400, 300)), None, 1)
    return image, tuple(map(float, box))


def jpeg(image: Image.Image, size: tuple[int, int], orientation: int = 1, **options: str) -> bytes:
    large, method, exif = image.resize(size), STORED[orientation], Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    (large if method is None else large.transpose(method)).save(buffer, "JPEG", exif=exif.tobytes(), **options)
    return buffer.getvalue()


def best_box(detector: Detector, image: DecodedImage) -> Box:
    (found,) = detector.detect(detector.preprocess.fit(image.pixels)[None], [image.size], 0.15)
    return found[0].box


@pytest.mark.parametrize(
    ("size", "orientation", "subsampling"),
    [
        ((2305, 1729), 1, "4:2:0"),
        ((2305, 1729), 3, "4:2:2"),
        ((1727, 2303), 6, "4:2:0"),
        ((1727, 2303), 8, "4:2:0"),
        ((4001, 2999), 8, "4:4:4"),
    ],
)
def test_the_best_box_is_the_same(
    detector: Detector, scene: tuple[Image.Image, Box], size: tuple[int, int], orientation: int, subsampling: str
) -> None:
    image, box = scene
    data = jpeg(image, size, orientation, subsampling=subsampling)
    small = decode_image(data, ROUTER.limits, ROUTER.look_px)
    assert small.size == size
    assert min(small.pixels.size) < min(size) / 1.9
    scale = np.array([size[0] / image.width, size[1] / image.height] * 2)
    found, whole = best_box(detector, small), best_box(detector, decode_image(data, ROUTER.limits))
    assert box_iou(np.array([found]), np.array([whole]))[0, 0] > 0.97
    assert box_iou(np.array([found]), np.array([box]) * scale)[0, 0] > 0.85


@pytest.mark.parametrize("size", [(2305, 1729), (4001, 2999)])
def test_the_embedding_of_the_subject_is_nearly_the_same(
    embedder: Embedder, scene: tuple[Image.Image, Box], size: tuple[int, int]
) -> None:
    image, (x1, y1, x2, y2) = scene
    across, down = size[0] / image.width, size[1] / image.height
    box = (x1 * across, y1 * down, x2 * across, y2 * down)
    data = jpeg(image, size)
    crops = [decode_image(data, ROUTER.limits, least_px, box).crop(box) for least_px in (None, ROUTER.crop_px)]
    assert crops[1].width < crops[0].width / 1.9
    whole, small = embedder.embed(np.stack([embedder.preprocess.fit(crop) for crop in crops])).embeddings
    assert whole @ small > 0.98
