"""How the pipeline reaches the three models: over HTTP to model servers, or in this process."""

import asyncio
import io
import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike import rows as wire
from lookalike.archives import unpack_archive
from lookalike.circuit import Circuit, CircuitState
from lookalike.config import ModelSettings, RouterSettings
from lookalike.detection import Detector
from lookalike.embedding import Embedder
from lookalike.errors import LookalikeError, ModelFailed
from lookalike.metadata import METADATA_DIR, CropDescriber
from lookalike.model_endpoint import Answer, ModelEndpoint, parsed
from lookalike.preprocessing import Preprocess
from lookalike.schemas import Description, Detection, DetectorResponse, MetadataResponse
from lookalike.spreading import Resolve, SpreadingSession, resolve_by_system
from lookalike.stage_timer import Deadline

_FITS = 3  # attempts to fit crops for the embedder that answers, while one takes another's place
_CONNECT_S = 0.5
_SLOW_SHARE = 0.5  # of a stage's time: a model server that had as much and did not answer is slow
MODEL_NAMES = ("detector", "embedder", "metadata_creator")


@dataclass(frozen=True)
class EmbeddedCrops:
    """Embeddings `(n, dim)` float32, their embedder's fingerprint, and descriptions where it made them as well."""

    embeddings: NDArray[np.float32]
    fingerprint: str
    descriptions: list[Description] | None = None


class ModelClient(Protocol):
    """The models as the pipeline sees them; images are RGB, boxes come in pixels of the image that was given."""

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the embedder that answers; None before it first did."""

    async def states(self, deadline: Deadline) -> dict[str, str]:
        """Return by model `ok`, or what is wrong with it."""

    def circuits(self) -> dict[str, CircuitState]:
        """Return the state of the circuit to each stage's model servers; empty where there are none."""

    async def close(self) -> None:
        """Let go of connections and models."""

    async def detect(self, image: Image.Image, deadline: Deadline) -> list[Detection]:
        """Return the detections in `image`, best first."""

    async def embed(self, crops: Sequence[Image.Image], deadline: Deadline, describe: bool = False) -> EmbeddedCrops:
        """Return one embedding a crop, in order; with `describe`, descriptions from the same request if it can."""

    async def describe_crops(self, crops: Sequence[Image.Image], deadline: Deadline) -> list[Description]:
        """Return one description a crop, by the metadata model's own forward pass."""


def fit_all(preprocess: Preprocess, crops: Sequence[Image.Image]) -> NDArray[np.uint8]:
    """Return the crops as one array `(n, h, w, 3)` uint8 of the network's input size."""
    return np.stack([preprocess.fit(crop) for crop in crops])


class LocalModelClient:
    """The models in this process: a search without hops, where models and router share a machine."""

    def __init__(
        self, detector: Detector, embedder: Embedder, describer: CropDescriber, executor: Executor, min_score: float
    ) -> None:
        """`executor` runs the networks; with two threads a crop is embedded and described side by side."""
        self._detector, self._embedder, self._describer = detector, embedder, describer
        self._executor, self._min_score = executor, min_score

    @classmethod
    def load(
        cls,
        detector_dir: Path,
        embedder_dir: Path,
        metadata_dir: Path,
        models: ModelSettings,
        executor: Executor,
        min_score: float,
    ) -> Self:
        """Load three built models.

        Raises:
            SetupError: naming the file that is missing or wrong, or models that cannot share a crop.
        """
        describer, embedder = CropDescriber.load(metadata_dir, models), Embedder.load(embedder_dir, models)
        describer.check_preprocess(embedder.preprocess)
        return cls(Detector.load(detector_dir, models), embedder, describer, executor, min_score)

    @classmethod
    def of_archives(cls, settings: RouterSettings, models: ModelSettings, executor: Executor) -> Self:
        """Load the models that the archives in `settings.archives_dir` hold, as their own servers would.

        Raises:
            SetupError: naming the archive, or the file in it, that is missing or wrong.
        """
        with tempfile.TemporaryDirectory() as unpacked:
            detector_dir = unpack_archive(settings.archives_dir / "detector.mar", Path(unpacked) / "detector")
            embedder_dir = unpack_archive(settings.archives_dir / "embedder.mar", Path(unpacked) / "embedder")
            metadata_dir = embedder_dir / METADATA_DIR
            return cls.load(detector_dir, embedder_dir, metadata_dir, models, executor, settings.min_detection_score)

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the embedder."""
        return self._embedder.fingerprint

    async def states(self, deadline: Deadline) -> dict[str, str]:
        """Return `ok` for every model: what was loaded is there; whether it works shows the search that follows."""
        return dict.fromkeys(MODEL_NAMES, "ok")

    def circuits(self) -> dict[str, CircuitState]:
        """Return nothing: no call leaves this process."""
        return {}

    async def close(self) -> None:
        """Nothing is open."""

    async def _run(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    async def detect(self, image: Image.Image, deadline: Deadline) -> list[Detection]:
        """Return the detections in `image`, best first."""
        return list(await self._run(self._detect, image))

    def _detect(self, image: Image.Image) -> list[Detection]:
        pixels = fit_all(self._detector.preprocess, [image])
        (detections,) = self._detector.detect(pixels, [image.size], self._min_score)
        return detections

    async def embed(self, crops: Sequence[Image.Image], deadline: Deadline, describe: bool = False) -> EmbeddedCrops:
        """Return one embedding a crop, in order, and with `describe` its description, made beside it."""
        pixels = await self._run(fit_all, self._embedder.preprocess, crops)
        embedding = self._run(self._embedder.embed, pixels)
        if not describe:
            return EmbeddedCrops((await embedding).embeddings, self._embedder.fingerprint)
        # Started first, as it is the longer one.
        embedded, descriptions = await asyncio.gather(embedding, self._run(self._describer.describe, pixels))
        return EmbeddedCrops(embedded.embeddings, self._embedder.fingerprint, descriptions)

    async def describe_crops(self, crops: Sequence[Image.Image], deadline: Deadline) -> list[Description]:
        """Return one description a crop."""
        pixels = await self._run(fit_all, self._describer.preprocess, crops)
        descriptions: list[Description] = await self._run(self._describer.describe, pixels)
        return descriptions


async def _state(endpoint: ModelEndpoint, deadline: Deadline) -> str:
    try:
        await deadline.bound(endpoint.stage, endpoint.check(deadline))
    except LookalikeError as error:
        return error.message
    return "ok"


class HttpModelClient:
    """The models behind their servers; pixels travel as uint8 arrays of the network's input size."""

    def __init__(self, settings: RouterSettings, resolve: Resolve = resolve_by_system) -> None:
        connector = aiohttp.TCPConnector(limit=settings.max_connections)
        # Every await is bounded by the request's deadline: aiohttp's own timeout would be a second clock. Only a
        # connection has one, as the address of a pod that is gone answers nothing at all.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        self._session = SpreadingSession(session, settings.resolve_s, resolve)
        self.detector = self._endpoint("detect", settings.detector_url, settings.detect_ms, settings)
        self.embedder = self._endpoint("embed", settings.embedder_url, settings.embed_ms, settings)
        self.metadata = self._endpoint("describe", settings.metadata_url, settings.describe_ms, settings)
        self._min_score = settings.min_detection_score

    def _endpoint(self, stage: str, url: str, limit_ms: float, settings: RouterSettings) -> ModelEndpoint:
        slow_s = limit_ms / 1000 * _SLOW_SHARE
        circuit = Circuit(stage, settings.circuit_failures, settings.circuit_open_s, slow_s)
        return ModelEndpoint(stage, url, self._session, circuit)

    @property
    def _endpoints(self) -> list[ModelEndpoint]:
        return [self.detector, self.embedder, self.metadata]

    def circuits(self) -> dict[str, CircuitState]:
        """Return the state of the circuit to each stage's model servers."""
        return {endpoint.stage: endpoint.circuit.state for endpoint in self._endpoints}

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the embedder that answered last."""
        return self.embedder.fingerprint

    async def states(self, deadline: Deadline) -> dict[str, str]:
        """Let every model run the golden image; return by model `ok`, or what is wrong with it."""
        states = await asyncio.gather(*(_state(endpoint, deadline) for endpoint in self._endpoints))
        return dict(zip(MODEL_NAMES, states, strict=True))

    async def close(self) -> None:
        """Close the pooled connections."""
        await self._session.close()

    async def _fitted(
        self, endpoint: ModelEndpoint, crops: Sequence[Image.Image], deadline: Deadline
    ) -> NDArray[np.uint8]:
        preprocess = (await endpoint.info(deadline)).preprocess
        return await asyncio.to_thread(fit_all, preprocess, crops)

    async def detect(self, image: Image.Image, deadline: Deadline) -> list[Detection]:
        """Return the detections in `image`, best first."""
        preprocess = (await self.detector.info(deadline)).preprocess
        pixels = await asyncio.to_thread(preprocess.fit, image)
        answer = await self.detector.call(pixels, deadline, x_lookalike_min_score=str(self._min_score))
        detections = parsed(DetectorResponse, answer.body, "detect").detections
        boxes = preprocess.unfit_boxes(np.array([d.box for d in detections], np.float32).reshape(-1, 4), image.size)
        return [d.model_copy(update={"box": tuple(box)}) for d, box in zip(detections, boxes.tolist(), strict=True)]

    async def embed(self, crops: Sequence[Image.Image], deadline: Deadline, describe: bool = False) -> EmbeddedCrops:
        """Return one embedding a crop, in order; descriptions come along where the embedder carries the heads."""
        asked = {"accept": wire.NPZ_TYPE, "x_lookalike_describe": str(describe).lower()}
        for _ in range(_FITS):
            card = await self.embedder.info(deadline)
            pixels = await asyncio.to_thread(fit_all, card.preprocess, crops)
            answer = await self.embedder.call(pixels, deadline, **asked)
            if answer.was_fitted_for(card):
                return _embedded(answer)
        raise ModelFailed("embed: two embedders that prepare images differently answer in turns")

    async def describe_crops(self, crops: Sequence[Image.Image], deadline: Deadline) -> list[Description]:
        """Return one description a crop, by the metadata model's own forward pass."""
        pixels = await self._fitted(self.metadata, crops, deadline)
        answer = await self.metadata.call(pixels, deadline)
        return parsed(MetadataResponse, answer.body, "describe").descriptions


def _embedded(answer: Answer) -> EmbeddedCrops:
    try:
        arrays = np.load(io.BytesIO(answer.body), allow_pickle=False)
        embeddings, described = arrays["embeddings"], arrays.get("descriptions")
    except Exception as error:  # numpy raises ValueError, EOFError, IndexError and zipfile's own
        raise ModelFailed(f"embed: the reply is no .npz with embeddings: {error}") from error
    if described is None:
        return EmbeddedCrops(embeddings, answer.fingerprint)
    descriptions = parsed(MetadataResponse, described.tobytes(), "embed").descriptions
    return EmbeddedCrops(embeddings, answer.fingerprint, descriptions)
