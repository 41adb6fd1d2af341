"""Detections from network outputs written by hand, and from the real network where it is built."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lookalike.config import ModelSettings
from lookalike.detection import Detector, suppress_duplicates
from lookalike.errors import InvalidRequest, SetupError
from lookalike.model_store import MODEL_FILE
from lookalike.preprocessing import Preprocess

MODELS = Path(__file__).parents[2] / "var" / "models"
PREPROCESS = Preprocess(height_px=64, width_px=64, mean=(0, 0, 0), std=(1, 1, 1))


class WrittenSession:
    """Answers every image with the same candidates."""

    def __init__(self, *candidates: tuple[tuple[float, float, float, float], float, int]) -> None:
        self._candidates = candidates

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        boxes = np.array([box for box, _, _ in self._candidates], np.float32).reshape(-1, 4)
        scores = np.array([score for _, score, _ in self._candidates], np.float32)
        labels = np.array([label for _, _, label in self._candidates], np.int64)
        return {name: np.stack([rows] * len(batch)) for name, rows in _named(boxes, scores, labels)}


def _named(boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
    return [("boxes", boxes), ("scores", scores), ("labels", labels)]


def detector_of(*candidates: tuple[tuple[float, float, float, float], float, int], **changes: Any) -> Detector:
    return Detector(WrittenSession(*candidates), PREPROCESS.model_copy(update=changes), ["cat", "dog"], max_images=4)


def pixels(count: int = 1) -> NDArray[np.uint8]:
    return np.zeros((count, 64, 64, 3), np.uint8)


def test_boxes_come_back_in_pixels_of_the_original_image() -> None:
    detector = detector_of(((16, 32, 48, 64), 0.9, 1))
    ((detection,),) = detector.detect(pixels(), [(640, 320)], 0.1)
    assert detection.box == pytest.approx((160, 160, 480, 320))
    assert (detection.label, detection.score) == ("dog", pytest.approx(0.9))


def test_padding_is_taken_off_the_boxes() -> None:
    detector = detector_of(((16, 16, 48, 48), 0.9, 0), resize="pad")  # 128x64 lies in rows 16 to 48
    ((detection,),) = detector.detect(pixels(), [(128, 64)], 0.1)
    assert detection.box == pytest.approx((32, 0, 96, 64))


def test_each_image_of_a_batch_has_its_own_size() -> None:
    detector = detector_of(((0, 0, 64, 64), 0.9, 0))
    found = detector.detect(pixels(2), [(10, 20), (300, 100)], 0.1)
    assert [detections[0].box for detections in found] == [(0, 0, 10, 20), (0, 0, 300, 100)]


def test_detections_are_sorted_and_those_below_the_score_are_dropped() -> None:
    detector = detector_of(((0, 0, 8, 8), 0.3, 0), ((20, 20, 40, 40), 0.8, 0), ((50, 50, 60, 60), 0.1, 0))
    (detections,) = detector.detect(pixels(), [(64, 64)], 0.2)
    assert [detection.score for detection in detections] == pytest.approx([0.8, 0.3])


def test_an_overlapping_box_is_dropped_only_within_its_label() -> None:
    near = ((0, 0, 40, 40), 0.9, 0), ((1, 1, 40, 40), 0.8, 0), ((1, 1, 40, 40), 0.7, 1)
    (detections,) = detector_of(*near).detect(pixels(), [(64, 64)], 0.1)
    assert [(found.label, found.score) for found in detections] == [
        ("cat", pytest.approx(0.9)),
        ("dog", pytest.approx(0.7)),
    ]


def test_boxes_are_clipped_to_the_image_and_empty_ones_dropped() -> None:
    detector = detector_of(((-9, -9, 30, 70), 0.9, 0), ((64, 10, 80, 20), 0.8, 0))
    ((detection,),) = detector.detect(pixels(), [(64, 64)], 0.1)
    assert detection.box == (0, 0, 30, 64)


def test_a_box_that_repeats_a_dropped_box_is_kept() -> None:
    boxes = np.array([[0, 0, 100, 10], [30, 0, 130, 10], [60, 0, 160, 10]], np.float32)  # neighbours overlap by 0.54
    assert suppress_duplicates(boxes, np.zeros(3, np.int64), max_iou=0.5).tolist() == [0, 2]


def test_no_candidates_are_no_detections() -> None:
    assert detector_of(((0, 0, 8, 8), 0.05, 0)).detect(pixels(), [(64, 64)], 0.2) == [[]]
    assert detector_of().detect(pixels(0), [], 0.2) == []


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((1, 32, 64, 3), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
        np.zeros((1, 3, 64, 64), np.uint8),
        np.zeros((5, 64, 64, 3), np.uint8),
    ],
    ids=["dtype", "size", "one image", "channels first", "too many"],
)
def test_pixels_of_another_form_are_refused_with_what_is_allowed(wrong: NDArray[Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        detector_of().detect(wrong, [(64, 64)] * len(wrong), 0.1)
    assert "uint8 of shape (n, 64, 64, 3) with n <= 4" in str(refused.value.allowed)


def test_a_size_is_needed_for_each_image() -> None:
    with pytest.raises(InvalidRequest, match="1 sizes for 2 images"):
        detector_of().detect(pixels(2), [(64, 64)], 0.1)


def test_the_built_detector_finds_a_clock() -> None:
    if not (MODELS / "detector" / MODEL_FILE).exists():
        pytest.skip("var/models/detector is not built: python -m training.export --models detector")
    detector = Detector.load(MODELS / "detector", ModelSettings(threads=1))
    picture = Image.new("RGB", (320, 240), (120, 140, 160))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((80, 40, 240, 200), fill="white", outline="black", width=8)
    for angle in np.arange(0, 2 * np.pi, np.pi / 6):  # the hours
        x, y = np.cos(angle), np.sin(angle)
        draw.line((160 + 60 * x, 120 + 60 * y, 160 + 70 * x, 120 + 70 * y), fill="black", width=4)
    draw.line((160, 60, 160, 120, 205, 140), fill="black", width=6)
    (detections,) = detector.detect(detector.preprocess.fit(picture)[None], [picture.size], 0.15)
    assert detections[0].label == "subject"
    assert detections[0].box == pytest.approx((80, 40, 240, 200), abs=8)


def test_an_embedder_is_no_detector() -> None:
    if not (MODELS / "embedder" / MODEL_FILE).exists():
        pytest.skip("var/models/embedder is not built: python -m training.export --models embedder")
    with pytest.raises(SetupError, match="no detector"):
        Detector.load(MODELS / "embedder", ModelSettings(threads=1))
