"""One model behind its servers: its card, calls with the time that is left, and the circuit that they go through."""

import logging
from typing import Any, NamedTuple, TypeVar

import aiohttp
from numpy.typing import NDArray
from pydantic import ValidationError

from lookalike import rows as wire
from lookalike.circuit import Circuit
from lookalike.errors import DeadlineExceeded, ModelFailed, ModelUnavailable, Overloaded
from lookalike.schemas import DetectorResponse, MetadataResponse, ModelInfo
from lookalike.spreading import SpreadingSession
from lookalike.stage_timer import Deadline

# How TorchServe says that a model's queue is full: the server works, and told it at once.
_QUEUE_FULL = b"ServiceUnavailableException"

logger = logging.getLogger(__name__)


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

    def __init__(self, stage: str, url: str, session: SpreadingSession, circuit: Circuit) -> None:
        self.stage, self._url, self._session, self.circuit = stage, url, session, circuit
        self._info: ModelInfo | None = None
        self.fingerprint: str | None = None  # of the model that answered last

    async def info(self, deadline: Deadline) -> ModelInfo:
        """Return the model's card, asked for once, and again when a model answers whose input is another."""
        card = self._info
        if card is None:
            card = self._info = parsed(ModelInfo, (await self._get("info", deadline)).body, self.stage)
            self.fingerprint = card.fingerprint
        return card

    async def check(self, deadline: Deadline) -> None:
        """Let the model run the golden image; raises a ServiceError that says what is wrong."""
        # Passes an open circuit as well: only the model knows whether it is ready, and its yes closes the circuit.
        await self._get("healthz", deadline, always=True)

    async def call(self, pixels: NDArray[Any], deadline: Deadline, **headers: str) -> Answer:
        """Send an array; return the answer, which names the model that made it."""
        sent = {"content-type": wire.NPY_TYPE, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return await self._send("POST", wire.npy_bytes(pixels), sent, deadline)

    async def _get(self, path: str, deadline: Deadline, always: bool = False) -> Answer:
        return await self._send("GET", None, {wire.PATH_HEADER: path}, deadline, always)

    async def _send(
        self, method: str, data: bytes | None, headers: dict[str, str], deadline: Deadline, always: bool = False
    ) -> Answer:
        with self.circuit.call(always):
            return await self._send_twice(method, data, headers, deadline)

    async def _send_twice(self, method: str, data: bytes | None, headers: dict[str, str], deadline: Deadline) -> Answer:
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
                if response.status == Overloaded.status and _QUEUE_FULL in body:
                    raise Overloaded(f"{self.stage}: the model server is busy")
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


M = TypeVar("M", DetectorResponse, MetadataResponse, ModelInfo)


def parsed(model: type[M], body: bytes, stage: str) -> M:
    """Return the JSON `body` as `model`; raises ModelFailed, naming `stage`, where it is none."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise ModelFailed(f"{stage}: the reply is not a {model.__name__}: {error.error_count()} errors") from error
