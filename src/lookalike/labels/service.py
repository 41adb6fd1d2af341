"""A trained task as a model server: what it reads of a row, runs on a batch and replies."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike import rows as wire
from lookalike.batching import ModelInput, ModelService, read_info, read_pixels, whole_batch
from lookalike.config import ModelSettings
from lookalike.embedding import Embedder, embed_in_parts
from lookalike.errors import InvalidRequest
from lookalike.labels.head import LabelHead
from lookalike.labels.prediction import read_scores
from lookalike.rows import Reply, Row
from lookalike.schemas import LabelResponse, ModelInfo, NoOptions
from lookalike.services import warmed


class LabelService(ModelService[NDArray[np.float32]]):
    """The label of an image (`POST /predictions/<task>`)."""

    def __init__(self, embedder: Embedder, head: LabelHead, info: ModelInfo, settings: ModelSettings) -> None:
        self._embedder, self._head = embedder, head
        self.info, self._settings = info, settings

    def read(self, row: Row) -> ModelInput:
        """Read exactly one image."""
        pixels, images = read_pixels(row, self._embedder.preprocess, self._settings)
        if len(images) != 1:
            raise InvalidRequest(f"{len(images)} images in one request; a label task takes one")
        return ModelInput(pixels, images, wire.options_in(row, NoOptions))

    def run(self, inputs: list[ModelInput]) -> list[NDArray[np.float32]]:
        """Return the scores `(labels,)` of each image of the batch."""
        _, features = embed_in_parts(self._embedder, whole_batch(inputs), self._settings.max_images)
        return list(self._head.scores(features))

    def reply(self, row: Row, given: ModelInput, result: NDArray[np.float32]) -> Reply:
        """Reply with the best label, and whether the task is sure of it."""
        card = self._head.card
        read = read_scores(card.labels, result, card.threshold)
        response = LabelResponse(label=read.label, score=read.score, sure=read.sure, scores=read.scores)
        return wire.json_reply(response, headers={wire.FINGERPRINT_HEADER: self.info.fingerprint})


def load_labels(model_dir: Path, settings: ModelSettings) -> LabelService:
    """Load a trained task from an unpacked model archive and warm it up.

    Raises:
        SetupError: naming the file that is missing or wrong.
    """
    embedder, head = Embedder.load(model_dir, settings), LabelHead.load(model_dir)
    return warmed(LabelService(embedder, head, read_info(model_dir), settings))
