"""The three model servers: what each reads of a row, runs on a batch and replies."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lookalike import rows as wire
from lookalike.batching import ModelInput, ModelService, read_info, read_pixels, shares_of, whole_batch
from lookalike.config import ModelSettings
from lookalike.detection import Detector
from lookalike.embedding import Embedder, embed_in_parts
from lookalike.errors import InvalidRequest, ModelFailed
from lookalike.metadata import METADATA_DIR, CropDescriber
from lookalike.rows import Reply, Row
from lookalike.schemas import (
    Description,
    Detection,
    DetectorOptions,
    DetectorResponse,
    EmbedderOptions,
    EmbedderResponse,
    MetadataResponse,
    ModelInfo,
    NoOptions,
)

S = TypeVar("S", bound=ModelService[Any])


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


class EmbedderService(ModelService[dict[str, NDArray[Any]]]):
    """Embeddings of one or many crops (`POST /predictions/embedder`), as JSON, .npy or .npz with the features.

    With the metadata model beside it, it describes crops in the request that embeds them.
    """

    def __init__(
        self, embedder: Embedder, info: ModelInfo, settings: ModelSettings, describer: CropDescriber | None = None
    ) -> None:
        self._embedder, self.info, self._settings, self._describer = embedder, info, settings, describer

    def read(self, row: Row) -> ModelInput:
        """Read one or many crops."""
        pixels, images = read_pixels(row, self._embedder.preprocess, self._settings)
        return ModelInput(pixels, images, wire.options_in(row, EmbedderOptions))

    def run(self, inputs: list[ModelInput]) -> list[dict[str, NDArray[Any]]]:
        """Embed the whole batch, and describe the crops of those who asked."""
        embeddings, features = embed_in_parts(self._embedder, whole_batch(inputs), self._settings.max_images)
        results = [{"embeddings": embeddings[share], "features": features[share]} for share in shares_of(inputs)]
        asking = [i for i, given in enumerate(inputs) if self._describes(given)]
        if asking and self._describer is not None:
            chosen = [inputs[i] for i in asking]
            descriptions = self._describer.describe(whole_batch(chosen))
            for i, share in zip(asking, shares_of(chosen), strict=True):
                # The router takes descriptions in place of the features: JSON as uint8 beside the embeddings.
                body = MetadataResponse(descriptions=descriptions[share]).model_dump_json().encode()
                results[i] = {"embeddings": results[i]["embeddings"], "descriptions": np.frombuffer(body, np.uint8)}
        return results

    def _describes(self, given: ModelInput) -> bool:
        return isinstance(given.options, EmbedderOptions) and given.options.describe

    def reply(self, row: Row, given: ModelInput, result: dict[str, NDArray[Any]]) -> Reply:
        """Reply in the form that the client accepts."""
        # A router that fitted its crops for another embedder behind the same address can tell.
        fitted = self.info.preprocess.digest()
        headers = {wire.FINGERPRINT_HEADER: self.info.fingerprint, wire.PREPROCESS_HEADER: fitted}
        if row.accepts(wire.NPZ_TYPE):
            return wire.arrays_reply(result, headers)
        if row.accepts(wire.NPY_TYPE):
            return wire.array_reply(result["embeddings"], headers)
        embeddings = result["embeddings"]
        response = EmbedderResponse(
            embeddings=embeddings.tolist(), dim=embeddings.shape[1], fingerprint=self.info.fingerprint
        )
        return wire.json_reply(response, headers=headers)


class MetadataService(ModelService[list[Description]]):
    """Attributes of one or many crops (`POST /predictions/metadata_creator`)."""

    def __init__(self, describer: CropDescriber, info: ModelInfo, settings: ModelSettings) -> None:
        self._describer, self.info, self._settings = describer, info, settings

    def read(self, row: Row) -> ModelInput:
        """Read one or many crops."""
        pixels, images = read_pixels(row, self._describer.preprocess, self._settings)
        return ModelInput(pixels, images, wire.options_in(row, NoOptions))

    def run(self, inputs: list[ModelInput]) -> list[list[Description]]:
        """Describe the whole batch."""
        descriptions = self._describer.describe(whole_batch(inputs))
        return [descriptions[share] for share in shares_of(inputs)]

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
    """Load the embedder, and the metadata model where its archive carries one; as `load_detector`."""
    embedder, info, beside = Embedder.load(model_dir, settings), read_info(model_dir), model_dir / METADATA_DIR
    describer = CropDescriber.load(beside, settings) if beside.exists() else None
    if describer is not None:
        describer.check_preprocess(embedder.preprocess)
    return warmed(EmbedderService(embedder, info, settings, describer))


def load_metadata(model_dir: Path, settings: ModelSettings) -> MetadataService:
    """Load the metadata model; as `load_detector`."""
    return warmed(MetadataService(CropDescriber.load(model_dir, settings), read_info(model_dir), settings))


def warmed(service: S) -> S:
    """Return `service` after a first run: it allocates the graph's buffers, and a client should not wait for that.

    Raises:
        ModelFailed: when the model fails on the golden image.
    """
    reply = service.health()
    if reply.status != 200:
        raise ModelFailed(f"model {service.info.name} fails on the golden image: {reply.body.decode()}")
    return service
