"""How the pipeline reaches the three models: over HTTP to model servers, or in this process."""

import asyncio
import io
import logging
import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import aiohttp
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from lookalike import rows as wire
from lookalike.archives import unpack_archive
from lookalike.config import ModelSettings, RouterSettings
from lookalike.detection import Detector
from lookalike.embedding import Embedder
from lookalike.errors import DeadlineExceeded, LookalikeError, ModelFailed, ModelUnavailable
from lookalike.metadata import METADATA_DIR, CropDescriber
from lookalike.preprocessing import Preprocess
from lookalike.schemas import Description, Detection, DetectorResponse, MetadataResponse, ModelInfo
from lookalike.spreading import Resolve, SpreadingSession, resolve_by_system
from lookalike.stage_timer import Deadline

_FITS = 3  # attempts to fit crops for the embedder that answers, while one takes another's place
_CONNECT_S = 0.5
MODEL_NAMES = ("detector", "embedder", "metadata_creator")

logger = logging.getLogger(__name__)


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


class Answer(NamedTuple):
    """A model server's answer, whose it is, and a digest of the preprocessing that it expects ("" when not told)."""

    body: bytes
    fingerprint: str
    preprocess: str

    def was_fitted_for(self, card: ModelInfo) -> bool:
        """Tell whether pixels fitted by `card` were right for the model that answered."""
        return self.fingerprint in ("", card.fingerprint) or self.preprocess == card.preprocess.digest()


class ModelEndpoint:
    """One model over kept-alive connections to all its servers: its card, and calls with the time that is left."""

    def __init__(self, stage: str, url: str, session: SpreadingSession) -> None:
        self.stage, self._url, self._session = stage, url, session
        self._info: ModelInfo | None = None
        self.fingerprint: str | None = None  # of the model that answered last

    async def info(self, deadline: Deadline) -> ModelInfo:
        """Return the model's card, asked for once, and again when a model answers whose input is another."""
        card = self._info
        if card is None:
            card = self._info = _parsed(ModelInfo, (await self._get("info", deadline)).body, self.stage)
            self.fingerprint = card.fingerprint
        return card

    async def check(self, deadline: Deadline) -> None:
        """Let the model run the golden image; raises a ServiceError that says what is wrong."""
        await self._get("healthz", deadline)

    async def call(self, pixels: NDArray[Any], deadline: Deadline, **headers: str) -> Answer:
        """Send an array; return the answer, which names the model that made it."""
        sent = {"content-type": wire.NPY_TYPE, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return await self._send("POST", wire.npy_bytes(pixels), sent, deadline)

    async def _get(self, path: str, deadline: Deadline) -> Answer:
        return await self._send("GET", None, {wire.PATH_HEADER: path}, deadline)

    async def _send(self, method: str, data: bytes | None, headers: dict[str, str], deadline: Deadline) -> Answer:
        """Send once, and once more, to another address if there is one, when the connection or the reply broke off.

        A keep-alive connection may have died unnoticed, and a pod may end at any moment; a call changes nothing.
        """
        try:
            try:
                return await self._send_once(method, data, headers, deadline)
            except aiohttp.ClientError:
                return await self._send_once(method, data, headers, deadline)
        except aiohttp.ClientError as error:
            self._log(f"cannot be reached: {error}", deadline)
            raise ModelUnavailable(f"{self.stage}: the model server cannot be reached") from error

    async def _send_once(self, method: str, data: bytes | None, headers: dict[str, str], deadline: Deadline) -> Answer:
        headers = {**headers, wire.DEADLINE_HEADER: f"{deadline.left_ms():.0f}"}
        if deadline.request_id:
            headers[wire.REQUEST_ID_HEADER] = deadline.request_id
        async with self._session.request(method, self._url, data=data, headers=headers) as response:
            body = await response.read()
            if response.status != 200:
                self._log(f"answered {response.status}: {body[:300].decode('utf-8', 'replace').strip()}", deadline)
                if response.status == DeadlineExceeded.status:
                    raise DeadlineExceeded(f"stage {self.stage!r} had no time left")
                raise ModelFailed(f"{self.stage}: the model server answered {response.status}")
            fingerprint = response.headers.get(wire.FINGERPRINT_HEADER, "")
            answer = Answer(body, fingerprint, response.headers.get(wire.PREPROCESS_HEADER, ""))
            self._note(answer)
            return answer

    def _note(self, answer: Answer) -> None:
        if answer.fingerprint:
            self.fingerprint = answer.fingerprint
        if self._info is not None and not answer.was_fitted_for(self._info):
            self._info = None  # another model is served now, whose input differs

    def _log(self, what: str, deadline: Deadline) -> None:
        """Tell the operator what no client should see: addresses and answers inside the service."""
        fields = {"request_id": deadline.request_id, "stage": self.stage, "url": self._url, "what": what}
        logger.warning("%(stage)s: %(url)s %(what)s", fields)


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
        self.detector = ModelEndpoint("detect", settings.detector_url, self._session)
        self.embedder = ModelEndpoint("embed", settings.embedder_url, self._session)
        self.metadata = ModelEndpoint("describe", settings.metadata_url, self._session)
        self._min_score = settings.min_detection_score

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the embedder that answered last."""
        return self.embedder.fingerprint

    async def states(self, deadline: Deadline) -> dict[str, str]:
        """Let every model run the golden image; return by model `ok`, or what is wrong with it."""
        endpoints = [self.detector, self.embedder, self.metadata]
        states = await asyncio.gather(*(_state(endpoint, deadline) for endpoint in endpoints))
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
        detections = _parsed(DetectorResponse, answer.body, "detect").detections
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
        return _parsed(MetadataResponse, answer.body, "describe").descriptions


def _embedded(answer: Answer) -> EmbeddedCrops:
    try:
        arrays = np.load(io.BytesIO(answer.body), allow_pickle=False)
        embeddings, described = arrays["embeddings"], arrays.get("descriptions")
    except Exception as error:  # numpy raises ValueError, EOFError, IndexError and zipfile's own
        raise ModelFailed(f"embed: the reply is no .npz with embeddings: {error}") from error
    if described is None:
        return EmbeddedCrops(embeddings, answer.fingerprint)
    descriptions = _parsed(MetadataResponse, described.tobytes(), "embed").descriptions
    return EmbeddedCrops(embeddings, answer.fingerprint, descriptions)


M = TypeVar("M", DetectorResponse, MetadataResponse, ModelInfo)


def _parsed(model: type[M], body: bytes, stage: str) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise ModelFailed(f"{stage}: the reply is not a {model.__name__}: {error.error_count()} errors") from error
