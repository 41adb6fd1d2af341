"""What each model server does with a batch of rows: read, run the network once, reply row by row."""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from lookalike import rows as wire
from lookalike.attributes import Describer
from lookalike.config import ModelSettings
from lookalike.detection import Detector
from lookalike.embedding import Embedder
from lookalike.errors import InvalidOption, InvalidRequest, LookalikeError, ModelFailed, UnknownPath
from lookalike.images import decode_image
from lookalike.model_store import read_built_model, read_preprocess
from lookalike.preprocessing import Preprocess
from lookalike.rows import Reply, Row
from lookalike.schemas import (
    Description,
    DetectorResponse,
    EmbedderResponse,
    ImageInfo,
    MetadataResponse,
    ModelInfo,
    Wire,
)

logger = logging.getLogger(__name__)
R = TypeVar("R")


class DetectorOptions(Wire):
    """What a client of the detector may ask for."""

    min_score: Annotated[float, Field(ge=0, le=1)] = 0.15
    max_detections: Annotated[int, Field(ge=1, le=100)] = 20


class NoOptions(Wire):
    """A model that has no options refuses every one by name."""


@dataclass(frozen=True)
class ModelInput:
    """One row, read: pixels `(n, h, w, 3)` uint8 of the network's size, or features; and what the reply needs."""

    array: NDArray[Any]
    images: list[ImageInfo]
    options: Wire


def golden_image() -> bytes:
    """Return the picture that a health check sends through the models."""
    return files("lookalike").joinpath("golden/golden.jpg").read_bytes()


def read_info(model_dir: Path) -> ModelInfo:
    """Return the card of the built model in `model_dir`."""
    built, preprocess = read_built_model(model_dir), read_preprocess(model_dir)
    return ModelInfo(
        name=built.name,
        version=built.version,
        fingerprint=built.fingerprint,
        preprocess=preprocess,
        dim=built.dim,
        feature_dim=built.feature_dim,
        labels=built.labels,
    )


def read_pixels(row: Row, preprocess: Preprocess, settings: ModelSettings) -> tuple[NDArray[np.uint8], list[ImageInfo]]:
    """Return the row's images as `(n, h, w, 3)` uint8 of the network's size, and what they were.

    An array of that size passes untouched: the router has already cut and resized it.

    Raises:
        RequestError: saying which part of the row is wrong.
    """
    if row.content_type == wire.NPY_TYPE:
        return _pixels_of_array(wire.array_in(row.body or b""), preprocess, settings.max_images)
    decoded = [decode_image(data, settings.limits) for data in wire.images_in(row, settings.max_images)]
    return np.stack([preprocess.fit(image.pixels) for image in decoded]), [image.info for image in decoded]


def _pixels_of_array(
    array: NDArray[Any], preprocess: Preprocess, max_images: int
) -> tuple[NDArray[np.uint8], list[ImageInfo]]:
    pixels = array[None] if array.ndim == 3 else array
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape:
        raise InvalidRequest(f"array is {array.dtype} {array.shape}", allowed="uint8 (h, w, 3) or (n, h, w, 3), RGB")
    if len(pixels) > max_images:
        raise InvalidRequest(f"{len(pixels)} images in one request; at most {max_images} are taken")
    info = ImageInfo(width=pixels.shape[2], height=pixels.shape[1], format="NPY")
    if not preprocess.fits(pixels):
        pixels = np.stack([preprocess.fit(Image.fromarray(one)) for one in pixels])
    return pixels, [info] * len(pixels)


class ModelService(ABC, Generic[R]):
    """A network behind rows: good rows share one forward pass, a bad row gets its own error."""

    info: ModelInfo

    def respond(self, rows: Sequence[Row]) -> list[Reply]:
        """Return one reply a row, in order; never raises."""
        replies: list[Reply | None] = [None] * len(rows)
        inputs: dict[int, ModelInput] = {}
        for i, row in enumerate(rows):
            try:
                if row.path:
                    replies[i] = self._answer_path(row)
                else:
                    inputs[i] = self.read(row)
            except LookalikeError as error:
                replies[i] = wire.error_reply(error, row)
        for i, reply in zip(inputs, self._run_inputs(inputs, rows), strict=True):
            replies[i] = reply
        return [reply for reply in replies if reply is not None]

    def _run_inputs(self, inputs: dict[int, ModelInput], rows: Sequence[Row]) -> list[Reply]:
        """Run all inputs at once; when the network fails on them together, each row is answered by that error."""
        if not inputs:
            return []
        try:
            results = self.run(list(inputs.values()))
            return [self.reply(rows[i], inputs[i], result) for i, result in zip(inputs, results, strict=True)]
        except Exception as error:
            logger.exception("model %s failed", self.info.name)
            failure = error if isinstance(error, LookalikeError) else ModelFailed(f"model {self.info.name} failed")
            return [wire.error_reply(failure, rows[i]) for i in inputs]

    def _answer_path(self, row: Row) -> Reply:
        if row.path == "info":
            return wire.json_reply(self.info)
        if row.path == "healthz":
            return self.health()
        raise UnknownPath(f"unknown path {row.path!r}", allowed=["info", "healthz"])

    def health(self) -> Reply:
        """Send the golden image through the network; 200 when it comes back whole."""
        row = Row("healthz", body=golden_image())
        (reply,) = self._run_inputs({0: self.read(row)}, [row])
        ready = reply.status == 200
        return Reply(reply.status, json.dumps({"ready": True}).encode() if ready else reply.body)

    @abstractmethod
    def read(self, row: Row) -> ModelInput:
        """Return the row's input, or raise a RequestError."""

    @abstractmethod
    def run(self, inputs: list[ModelInput]) -> list[R]:
        """Run the network once on all inputs and return each one's share of the result."""

    @abstractmethod
    def reply(self, row: Row, given: ModelInput, result: R) -> Reply:
        """Return the reply to one row."""


def _shares(inputs: list[ModelInput]) -> list[slice]:
    """Return where each input's images stand in the batch of all."""
    ends = np.cumsum([len(given.array) for given in inputs])
    return [slice(end - len(given.array), end) for given, end in zip(inputs, ends, strict=True)]


def _whole(inputs: list[ModelInput]) -> NDArray[Any]:
    return inputs[0].array if len(inputs) == 1 else np.concatenate([given.array for given in inputs])


class DetectorService(ModelService[list[Any]]):
    """Boxes of the subjects in an image (`POST /predictions/detector`)."""

    def __init__(self, detector: Detector, info: ModelInfo, settings: ModelSettings) -> None:
        self._detector, self.info, self._settings = detector, info, settings

    def read(self, row: Row) -> ModelInput:
        """Read exactly one image; the boxes come back in its pixels."""
        pixels, images = read_pixels(row, self._detector.preprocess, self._settings)
        if len(images) != 1:
            raise InvalidRequest(f"{len(images)} images in one request; the detector takes one")
        return ModelInput(pixels, images, wire.options_in(row, DetectorOptions))

    def run(self, inputs: list[ModelInput]) -> list[list[Any]]:
        """Detect on the whole batch at the lowest threshold that any row asked for."""
        options = [given.options for given in inputs]
        min_score = min(o.min_score for o in options if isinstance(o, DetectorOptions))
        sizes = [(given.images[0].width, given.images[0].height) for given in inputs]
        return list(self._detector.detect(_whole(inputs), sizes, min_score))

    def reply(self, row: Row, given: ModelInput, result: list[Any]) -> Reply:
        """Reply with the row's own threshold and limit applied."""
        options = given.options
        assert isinstance(options, DetectorOptions)
        kept = [detection for detection in result if detection.score >= options.min_score]
        response = DetectorResponse(detections=kept[: options.max_detections], image=given.images[0])
        return wire.json_reply(response, headers={wire.FINGERPRINT_HEADER: self.info.fingerprint})


class EmbedderService(ModelService[dict[str, NDArray[np.float32]]]):
    """Embeddings of one or many crops (`POST /predictions/embedder`), as JSON, .npy or .npz with the features."""

    def __init__(self, embedder: Embedder, info: ModelInfo, settings: ModelSettings) -> None:
        self._embedder, self.info, self._settings = embedder, info, settings

    def read(self, row: Row) -> ModelInput:
        """Read one or many crops."""
        pixels, images = read_pixels(row, self._embedder.preprocess, self._settings)
        return ModelInput(pixels, images, wire.options_in(row, NoOptions))

    def run(self, inputs: list[ModelInput]) -> list[dict[str, NDArray[np.float32]]]:
        """Embed the whole batch."""
        embedded = self._embedder.embed(_whole(inputs))
        return [
            {"embeddings": embedded.embeddings[share], "features": embedded.features[share]}
            for share in _shares(inputs)
        ]

    def reply(self, row: Row, given: ModelInput, result: dict[str, NDArray[np.float32]]) -> Reply:
        """Reply in the form that the client accepts."""
        headers = {wire.FINGERPRINT_HEADER: self.info.fingerprint}
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
    """Attributes of one or many crops (`POST /predictions/metadata_creator`), from pixels or from features."""

    def __init__(self, embedder: Embedder, describer: Describer, info: ModelInfo, settings: ModelSettings) -> None:
        self._embedder, self._describer = embedder, describer
        self.info, self._settings = info, settings

    def read(self, row: Row) -> ModelInput:
        """Read crops and run the backbone on them, or read features `(n, feature_dim)` float32 as they are."""
        options = wire.options_in(row, NoOptions)
        array = wire.array_in(row.body or b"") if row.content_type == wire.NPY_TYPE else None
        if array is not None and array.ndim == 2:
            return ModelInput(self._features(array, row), [], options)
        pixels, images = read_pixels(row, self._embedder.preprocess, self._settings)
        return ModelInput(pixels, images, options)

    def _features(self, array: NDArray[Any], row: Row) -> NDArray[np.float32]:
        wanted = (self._describer.card.feature_dim,)
        if array.dtype != np.float32 or array.shape[1:] != wanted or not np.isfinite(array).all():
            raise InvalidRequest(
                f"features are {array.dtype} {array.shape}", allowed=f"finite float32 (n, {wanted[0]})"
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
        return [descriptions[share] for share in _shares(inputs)]

    def _backbone(self, inputs: list[ModelInput]) -> list[NDArray[np.float32]]:
        if not inputs:
            return []
        features = self._embedder.embed(_whole(inputs)).features
        return [features[share] for share in _shares(inputs)]

    def reply(self, row: Row, given: ModelInput, result: list[Description]) -> Reply:
        """Reply with one description a crop."""
        return wire.json_reply(MetadataResponse(descriptions=result))


def load_detector(model_dir: Path, settings: ModelSettings) -> DetectorService:
    """Load the detector from an unpacked model archive and warm it up.

    Raises:
        SetupError: naming the file that is missing or wrong.
    """
    return _warm(DetectorService(Detector.load(model_dir, settings), read_info(model_dir), settings))


def load_embedder(model_dir: Path, settings: ModelSettings) -> EmbedderService:
    """Load the embedder; as `load_detector`."""
    return _warm(EmbedderService(Embedder.load(model_dir, settings), read_info(model_dir), settings))


def load_metadata(model_dir: Path, settings: ModelSettings) -> MetadataService:
    """Load the metadata classifiers and the backbone that they share with the embedder; as `load_detector`."""
    embedder, describer = Embedder.load(model_dir, settings), Describer.load(model_dir, settings)
    return _warm(MetadataService(embedder, describer, read_info(model_dir), settings))


S = TypeVar("S", bound=ModelService[Any])
Loader = Callable[[Path, ModelSettings], ModelService[Any]]


def _warm(service: S) -> S:
    """The first run of a graph allocates its buffers: a client should not wait for that."""
    reply = service.health()
    if reply.status != 200:
        raise ModelFailed(f"model {service.info.name} fails on the golden image: {reply.body.decode()}")
    return service
