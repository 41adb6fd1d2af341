"""The three model servers: what each reads of a row, runs on a batch and replies."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lookalike import rows as wire
from lookalike.attributes import CARD_FILE, Describer
from lookalike.batching import ModelInput, ModelService, read_info, read_pixels, shares_of, whole_batch
from lookalike.config import ModelSettings
from lookalike.detection import Detector
from lookalike.embedding import Embedder
from lookalike.errors import InvalidOption, InvalidRequest, ModelFailed
from lookalike.rows import Reply, Row
from lookalike.schemas import (
    Description,
    Detection,
    DetectorResponse,
    EmbedderResponse,
    MetadataResponse,
    ModelInfo,
    Wire,
)

S = TypeVar("S", bound=ModelService[Any])


class DetectorOptions(Wire):
    """What a client of the detector may ask for."""

    min_score: Annotated[float, Field(ge=0, le=1)] = 0.15
    max_detections: Annotated[int, Field(ge=1, le=100)] = 20


class NoOptions(Wire):
    """A model that has no options refuses every one by name."""


def embed_in_parts(
    embedder: Embedder, pixels: NDArray[np.uint8], step: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return embeddings and features of any number of crops, `step` at a time: rows together may exceed one call."""
    parts = [embedder.embed(pixels[start : start + step]) for start in range(0, len(pixels), step)]
    return np.concatenate([part.embeddings for part in parts]), np.concatenate([part.features for part in parts])


class DetectorService(ModelService[list[Detection]]):
    """Boxes of the subjects in an image (`POST /predictions/detector`)."""

    def __init__(self, detector: Detector, info: ModelInfo, settings: ModelSettings) -> None:
        self._detector, self.info, self._settings = detector, info, settings

    def read(self, row: Row) -> ModelInput:
        """Read exactly one image; the boxes come back in its pixels."""
        pixels, images = read_pixels(row, self._detector.preprocess, self._settings)
        if len(images) != 1:
            raise InvalidRequest(f"{len(images)} images in one request; the detector takes one")
        return ModelInput(pixels, images, wire.options_in(row, DetectorOptions))

    def run(self, inputs: list[ModelInput]) -> list[list[Detection]]:
        """Detect on the whole batch at the lowest threshold that any row asked for."""
        options = [given.options for given in inputs]
        min_score = min(o.min_score for o in options if isinstance(o, DetectorOptions))
        sizes = [(given.images[0].width, given.images[0].height) for given in inputs]
        pixels, step = whole_batch(inputs), self._settings.max_images
        parts = (slice(start, start + step) for start in range(0, len(pixels), step))
        return [found for part in parts for found in self._detector.detect(pixels[part], sizes[part], min_score)]

    def reply(self, row: Row, given: ModelInput, result: list[Detection]) -> Reply:
        """Reply with the row's own threshold and limit applied."""
        options = given.options
        assert isinstance(options, DetectorOptions)
        kept = [detection for detection in result if detection.score >= options.min_score]
        response = DetectorResponse(detections=kept[: options.max_detections], image=given.images[0])
        return wire.json_reply(response, headers={wire.FINGERPRINT_HEADER: self.info.fingerprint})


class EmbedderOptions(Wire):
    """What a client of the embedder may ask for; `describe` adds `descriptions` to an .npz reply."""

    describe: bool = False


class EmbedderService(ModelService[dict[str, NDArray[np.float32]]]):
    """Embeddings of one or many crops (`POST /predictions/embedder`), as JSON, .npy or .npz with the features.

    With the metadata heads of its own features beside it, it describes crops from the same forward pass.
    """

    def __init__(
        self, embedder: Embedder, info: ModelInfo, settings: ModelSettings, describer: Describer | None = None
    ) -> None:
        self._embedder, self.info, self._settings, self._describer = embedder, info, settings, describer

    def read(self, row: Row) -> ModelInput:
        """Read one or many crops."""
        pixels, images = read_pixels(row, self._embedder.preprocess, self._settings)
        return ModelInput(pixels, images, wire.options_in(row, EmbedderOptions))

    def run(self, inputs: list[ModelInput]) -> list[dict[str, NDArray[np.float32]]]:
        """Embed the whole batch."""
        embeddings, features = embed_in_parts(self._embedder, whole_batch(inputs), self._settings.max_images)
        return [{"embeddings": embeddings[share], "features": features[share]} for share in shares_of(inputs)]

    def reply(self, row: Row, given: ModelInput, result: dict[str, NDArray[np.float32]]) -> Reply:
        """Reply in the form that the client accepts."""
        headers = {wire.FINGERPRINT_HEADER: self.info.fingerprint}
        if row.accepts(wire.NPZ_TYPE):
            return wire.arrays_reply(self._described(given, result), headers)
        if row.accepts(wire.NPY_TYPE):
            return wire.array_reply(result["embeddings"], headers)
        embeddings = result["embeddings"]
        response = EmbedderResponse(
            embeddings=embeddings.tolist(), dim=embeddings.shape[1], fingerprint=self.info.fingerprint
        )
        return wire.json_reply(response, headers=headers)

    def _described(self, given: ModelInput, result: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
        """Return `result`, with descriptions (JSON as uint8) in place of the features they are made of, where asked."""
        options = given.options
        if self._describer is None or not (isinstance(options, EmbedderOptions) and options.describe):
            return dict(result)
        response = MetadataResponse(descriptions=self._describer.describe(result["features"]))
        described = np.frombuffer(response.model_dump_json().encode(), np.uint8)
        return {"embeddings": result["embeddings"], "descriptions": described}


class MetadataService(ModelService[list[Description]]):
    """Attributes of one or many crops (`POST /predictions/metadata_creator`), from pixels or from features."""

    def __init__(self, embedder: Embedder, describer: Describer, info: ModelInfo, settings: ModelSettings) -> None:
        self._embedder, self._describer = embedder, describer
        self.info, self._settings = info, settings

    def read(self, row: Row) -> ModelInput:
        """Read crops and run the backbone on them, or read features `(n, feature_dim)` float32 as they are."""
        array = wire.array_in(row.body or b"") if row.content_type == wire.NPY_TYPE else None
        if array is not None and array.ndim == 2:
            return ModelInput(self._features(array, row), [], wire.options_in(row, NoOptions))
        pixels, images = read_pixels(row, self._embedder.preprocess, self._settings)
        return ModelInput(pixels, images, wire.options_in(row, NoOptions))

    def _features(self, array: NDArray[Any], row: Row) -> NDArray[np.float32]:
        wanted = (self._describer.card.feature_dim,)
        if array.dtype != np.float32 or array.shape[1:] != wanted or not np.isfinite(array).all():
            raise InvalidRequest(
                f"features are {array.dtype} {array.shape}", allowed=f"finite float32 (n, {wanted[0]})"
            )
        if not 1 <= len(array) <= self._settings.max_images:
            raise InvalidRequest(
                f"features of {len(array)} crops in one request", allowed=f"1 to {self._settings.max_images}"
            )
        sender = row.headers.get(wire.FINGERPRINT_HEADER)
        if sender not in (None, self._describer.feature_fingerprint):
            raise InvalidOption(
                f"features of embedder {sender} are not those that these heads were fitted on",
                allowed=self._describer.feature_fingerprint,
            )
        return array

    def run(self, inputs: list[ModelInput]) -> list[list[Description]]:
        """Run the backbone on what came as pixels, then the heads on all."""
        from_pixels = [given for given in inputs if given.array.ndim == 4]
        features = iter(self._backbone(from_pixels))
        batch = [next(features) if given.array.ndim == 4 else given.array for given in inputs]
        descriptions = self._describer.describe(np.concatenate(batch))
        return [descriptions[share] for share in shares_of(inputs)]

    def _backbone(self, inputs: list[ModelInput]) -> list[NDArray[np.float32]]:
        if not inputs:
            return []
        _, features = embed_in_parts(self._embedder, whole_batch(inputs), self._settings.max_images)
        return [features[share] for share in shares_of(inputs)]

    def reply(self, row: Row, given: ModelInput, result: list[Description]) -> Reply:
        """Reply with one description a crop."""
        return wire.json_reply(MetadataResponse(descriptions=result))


def load_detector(model_dir: Path, settings: ModelSettings) -> DetectorService:
    """Load the detector from an unpacked model archive and warm it up.

    Raises:
        SetupError: naming the file that is missing or wrong.
    """
    return warmed(DetectorService(Detector.load(model_dir, settings), read_info(model_dir), settings))


def load_embedder(model_dir: Path, settings: ModelSettings) -> EmbedderService:
    """Load the embedder, and the metadata heads where its archive carries some; as `load_detector`."""
    embedder, info = Embedder.load(model_dir, settings), read_info(model_dir)
    describer = Describer.load(model_dir, settings) if (model_dir / CARD_FILE).exists() else None
    if describer is not None:
        describer.check_embedder(info.fingerprint)
    return warmed(EmbedderService(embedder, info, settings, describer))


def load_metadata(model_dir: Path, settings: ModelSettings) -> MetadataService:
    """Load the metadata classifiers and the backbone that they share with the embedder; as `load_detector`."""
    embedder, describer = Embedder.load(model_dir, settings), Describer.load(model_dir, settings)
    return warmed(MetadataService(embedder, describer, read_info(model_dir), settings))


def warmed(service: S) -> S:
    """Return `service` after a first run: it allocates the graph's buffers, and a client should not wait for that.

    Raises:
        ModelFailed: when the model fails on the golden image.
    """
    reply = service.health()
    if reply.status != 200:
        raise ModelFailed(f"model {service.info.name} fails on the golden image: {reply.body.decode()}")
    return service
