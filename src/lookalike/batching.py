"""The frame of a model server: good rows of a batch share one forward pass, a bad row gets its own error."""

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike import rows as wire
from lookalike.config import ModelSettings
from lookalike.errors import DeadlineExceeded, InvalidOption, InvalidRequest, LookalikeError, ModelFailed, UnknownPath
from lookalike.images import check_size, decode_image
from lookalike.model_store import read_built_model, read_preprocess
from lookalike.preprocessing import Preprocess
from lookalike.rows import Reply, Row
from lookalike.schemas import ImageInfo, ModelInfo, Wire

logger = logging.getLogger(__name__)
R = TypeVar("R")


@dataclass(frozen=True)
class ModelInput:
    """One row, read: pixels `(n, h, w, 3)` uint8 of the network's size, and what the reply needs."""

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
        likeness=built.likeness,
    )


def read_pixels(row: Row, preprocess: Preprocess, settings: ModelSettings) -> tuple[NDArray[np.uint8], list[ImageInfo]]:
    """Return the row's images as `(n, h, w, 3)` uint8 of the network's size, and what they were.

    An array of that size passes untouched: the router has already cut and resized it.

    Raises:
        RequestError: saying which part of the row is wrong.
    """
    if row.content_type == wire.NPY_TYPE:
        return _pixels_of_array(wire.array_in(row.body or b""), preprocess, settings)
    images = wire.images_in(row, settings.max_images)
    decoded = [decode_image(data, settings.limits, preprocess.least_px) for data in images]
    return np.stack([preprocess.fit(image.pixels) for image in decoded]), [image.info for image in decoded]


def _pixels_of_array(
    array: NDArray[Any], preprocess: Preprocess, settings: ModelSettings
) -> tuple[NDArray[np.uint8], list[ImageInfo]]:
    pixels = array[None] if array.ndim == 3 else array
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape:
        raise InvalidRequest(f"array is {array.dtype} {array.shape}", allowed="uint8 (h, w, 3) or (n, h, w, 3), RGB")
    if len(pixels) > settings.max_images:
        raise InvalidRequest(f"{len(pixels)} images in one request; at most {settings.max_images} are taken")
    check_size((pixels.shape[2], pixels.shape[1]), settings.limits)
    info = ImageInfo(width=pixels.shape[2], height=pixels.shape[1], format="NPY")
    if not preprocess.fits(pixels):
        pixels = np.stack([preprocess.fit(Image.fromarray(one)) for one in pixels])
    return pixels, [info] * len(pixels)


def asked_ms_in(row: Row) -> float | None:
    """Return the milliseconds that the client gives the row; None when it names none.

    Raises:
        InvalidOption: it is no number.
    """
    text = row.headers.get(wire.DEADLINE_HEADER)
    try:
        return None if text is None else float(text)
    except ValueError as error:
        raise InvalidOption(f"{wire.DEADLINE_HEADER} is {text!r}", allowed="milliseconds above zero") from error


def _too_late(row: Row, taken_s: float) -> Reply | None:
    """Return the error reply of a row whose time, counted from `taken_s`, has passed; None while there is some."""
    asked_ms = asked_ms_in(row)
    if asked_ms is None or asked_ms > (time.monotonic() - taken_s) * 1000:
        return None
    return wire.error_reply(DeadlineExceeded(f"the {asked_ms:g} ms were over before the model could run"), row)


class ModelService(ABC, Generic[R]):
    """A network behind rows: good rows share one forward pass, a bad row gets its own error."""

    info: ModelInfo

    def respond(self, rows: Sequence[Row]) -> list[Reply]:
        """Return one reply a row, in order; never raises."""
        taken_s = time.monotonic()
        taken = [self._take(row) for row in rows]
        # Reading takes time as well: what nobody waits for any more is not sent through the network.
        replies = [
            _too_late(row, taken_s) if isinstance(t, ModelInput) else t for row, t in zip(rows, taken, strict=True)
        ]
        inputs = {i: t for i, t in enumerate(taken) if isinstance(t, ModelInput) and replies[i] is None}
        for i, reply in zip(inputs, self._run_inputs(inputs, rows), strict=True):
            replies[i] = reply
        return [reply for reply in replies if reply is not None]

    def _take(self, row: Row) -> ModelInput | Reply:
        """Return the row's input, or the reply that it has already: whatever it provokes, the others are answered."""
        try:
            if row.path:
                return self._answer_path(row)
            asked_ms_in(row)
            return self.read(row)
        except LookalikeError as error:
            return wire.error_reply(error, row)
        except Exception:
            logger.exception("request %s cannot be read", row.request_id)
            return wire.error_reply(LookalikeError("the request failed; the log has its id"), row)

    def _run_inputs(self, inputs: dict[int, ModelInput], rows: Sequence[Row]) -> list[Reply]:
        """Run all inputs at once; when the network fails on them together, each row is answered by that error."""
        if not inputs:
            return []
        try:
            results = self.run(list(inputs.values()))
            return [self.reply(rows[i], inputs[i], result) for i, result in zip(inputs, results, strict=True)]
        except Exception as error:
            ids = ", ".join(rows[i].request_id for i in inputs)
            logger.exception("model %s failed: requests %s", self.info.name, ids)
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
        body = json.dumps({"ready": True}).encode() if ready else reply.body
        return Reply(reply.status, body, headers={wire.FINGERPRINT_HEADER: self.info.fingerprint})

    @abstractmethod
    def read(self, row: Row) -> ModelInput:
        """Return the row's input, or raise a RequestError."""

    @abstractmethod
    def run(self, inputs: list[ModelInput]) -> list[R]:
        """Run the network once on all inputs and return each one's share of the result."""

    @abstractmethod
    def reply(self, row: Row, given: ModelInput, result: R) -> Reply:
        """Return the reply to one row."""


def shares_of(inputs: list[ModelInput]) -> list[slice]:
    """Return where each input's images stand in the batch of all."""
    ends = np.cumsum([len(given.array) for given in inputs])
    return [slice(end - len(given.array), end) for given, end in zip(inputs, ends, strict=True)]


def whole_batch(inputs: list[ModelInput]) -> NDArray[Any]:
    """Return all inputs' arrays as one batch."""
    return inputs[0].array if len(inputs) == 1 else np.concatenate([given.array for given in inputs])
