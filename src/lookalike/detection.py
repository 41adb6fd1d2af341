"""Finds the regions that a search may be about: the pre- and post-processing of the detector, no server in sight."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lookalike.boxes import box_iou
from lookalike.config import ModelSettings
from lookalike.errors import InvalidRequest, SetupError
from lookalike.model_store import read_built_model, read_preprocess
from lookalike.preprocessing import Preprocess
from lookalike.runtimes import Session, load_session
from lookalike.schemas import Detection

MAX_DETECTIONS = 100
SAME_OBJECT_IOU = 0.6  # as the detector's authors suppress
_MAX_CANDIDATES = 1000
_MIN_EDGE_PX = 1.0


class Detector:
    """A loaded detector; call it from one thread at a time."""

    def __init__(self, session: Session, preprocess: Preprocess, labels: Sequence[str], max_images: int = 64) -> None:
        self.preprocess = preprocess
        self.labels = list(labels)
        self._session = session
        self._max_images = max_images

    @classmethod
    def load(cls, model_dir: Path, settings: ModelSettings) -> Self:
        """Load the built detector in `model_dir`.

        Raises:
            SetupError: for a missing, altered or foreign model, or a runtime that is not there.
        """
        built = read_built_model(model_dir)
        if not built.labels:
            raise SetupError(f"{model_dir} holds {built.name!r}, which is no detector: model.json names no labels")
        session = load_session(model_dir, settings)
        return cls(session, read_preprocess(model_dir), built.labels, settings.max_images)

    def detect(
        self, pixels: NDArray[np.uint8], sizes: Sequence[tuple[int, int]], min_score: float
    ) -> list[list[Detection]]:
        """Return each image's detections with `score >= min_score`, the best first, boxes in pixels of `sizes`.

        `pixels` is `(n, h, w, 3)` uint8 RGB as `preprocess.fit` makes it; `sizes` are the (width, height) of the images
        that were fitted.

        Raises:
            InvalidRequest: for another dtype or shape, more images than `max_images`, or not one size an image.
        """
        self.preprocess.check(pixels, self._max_images)
        if len(sizes) != len(pixels):
            raise InvalidRequest(f"{len(sizes)} sizes for {len(pixels)} images", allowed="one (width, height) an image")
        if not len(pixels):
            return []
        outputs = self._session.run(pixels)
        rows = zip(outputs["boxes"], outputs["scores"], outputs["labels"], sizes, strict=True)
        return [self._detections(*row, min_score) for row in rows]

    def _detections(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        labels: NDArray[np.int64],
        size: tuple[int, int],
        min_score: float,
    ) -> list[Detection]:
        candidates = np.flatnonzero(scores >= min_score)
        candidates = candidates[np.argsort(-scores[candidates], kind="stable")][:_MAX_CANDIDATES]
        boxes = self.preprocess.unfit_boxes(boxes[candidates], size)
        scores, labels = scores[candidates], labels[candidates]
        sides = boxes[:, 2:] - boxes[:, :2]
        whole = np.flatnonzero((sides >= _MIN_EDGE_PX).all(axis=1))  # clipping may leave nothing of a box
        kept = whole[suppress_duplicates(boxes[whole], labels[whole])][:MAX_DETECTIONS]
        return [
            Detection(box=tuple(boxes[row].tolist()), score=float(scores[row]), label=self.labels[labels[row]])
            for row in kept
        ]


def suppress_duplicates(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], max_iou: float = SAME_OBJECT_IOU
) -> NDArray[np.int64]:
    """Return the rows of `boxes` `(n, 4)`, best first, without those that repeat a better row of the same label.

    A row repeats another when their intersection over union exceeds `max_iou`.
    """
    rivals = (box_iou(boxes, boxes) > max_iou) & (labels[:, None] == labels[None, :])
    kept: list[int] = []
    for row in range(len(boxes)):
        if not rivals[row, kept].any():
            kept.append(row)
    return np.array(kept, dtype=np.int64)
