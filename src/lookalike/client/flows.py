"""Every call of the client, once for both kinds of client: steps that a transport carries out, and what they give."""

import base64
import io
import json
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from lookalike.client.images import ImageLike, as_jpeg, cut, encoded, pixels_of, shrunk
from lookalike.client.retries import RetryPolicy
from lookalike.client.wire import Answer, Failed, Pause, Result, Send, Step, error_in, message_in
from lookalike.errors import (
    DeadlineExceeded,
    InvalidOption,
    LookalikeError,
    ModelFailed,
    ModelUnavailable,
    wrong_fields,
)
from lookalike.options import option_headers
from lookalike.rows import DEADLINE_HEADER, FINGERPRINT_HEADER, JSON_TYPE, NPY_TYPE, REQUEST_ID_HEADER
from lookalike.schemas import (
    Box,
    Description,
    DetectorOptions,
    DetectorResponse,
    Filters,
    MetadataResponse,
    SearchOptions,
    SearchResponse,
)

T = TypeVar("T")
Flow = Generator[Step, Result, T]
_BYTES = "application/octet-stream"
_TRIP_EDGE_PX = 640


class SearchKeywords(TypedDict, total=False):
    """The options of a search, as keyword arguments; docs/api.md says what they mean."""

    top_k: int
    crop: str
    box: Box | None
    filters: Filters
    min_similarity: float | None
    attributes: bool
    subjects: int
    like: list[str]
    unlike: list[str]
    request_id: str


class Embeddings(NamedTuple):
    """Embeddings `(n, dim)` float32, L2-normalised, and the fingerprint of the embedder that made them."""

    embeddings: NDArray[np.float32]
    fingerprint: str


class TwoTrip(NamedTuple):
    """A search by a crop that was cut here: `box` is in pixels of the upright original, None where nothing was found.

    Boxes inside of `response` are in pixels of the crop. `sent_bytes` went over the line in both trips together.
    """

    response: SearchResponse
    box: Box | None
    sent_bytes: int


class Deadline:
    """The end of all attempts and trips of one call."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s, self._end_s = timeout_s, time.monotonic() + timeout_s

    def left_s(self) -> float:
        """Return the seconds left; raises DeadlineExceeded when there are none."""
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded(f"no answer within {self.timeout_s:g} s")
        return left_s


class Flows:
    """Makes the flow of each call."""

    def __init__(self, api_key: str | None, timeout_s: float, policy: RetryPolicy) -> None:
        self._headers = {"x-api-key": api_key} if api_key else {}
        self._timeout_s, self._policy = timeout_s, policy

    def search(
        self, image: ImageLike, options: SearchKeywords, deadline: Deadline | None = None
    ) -> Flow[SearchResponse]:
        """Search with an image."""
        headers = _option_headers("search", SearchOptions, dict(options))
        answer = yield from self._post("search", encoded(image), headers, deadline)
        return message_in(answer, SearchResponse)

    def detect(
        self, image: ImageLike, options: Mapping[str, Any], deadline: Deadline | None = None
    ) -> Flow[DetectorResponse]:
        """Find the subjects in an image."""
        headers = _option_headers("detector", DetectorOptions, dict(options))
        answer = yield from self._post("detector", encoded(image), headers, deadline)
        return message_in(answer, DetectorResponse)

    def embed(self, images: Sequence[ImageLike]) -> Flow[Embeddings]:
        """Embed crops."""
        body, headers = _many(images)
        answer = yield from self._post("embedder", body, {**headers, "accept": NPY_TYPE}, None)
        try:
            embeddings = np.load(io.BytesIO(answer.body), allow_pickle=False)
        except Exception as error:  # numpy raises whatever it stumbles over
            raise ModelFailed(f"the answer holds no embeddings: {error}") from error
        return Embeddings(embeddings, answer.headers.get(FINGERPRINT_HEADER, ""))

    def describe(self, images: Sequence[ImageLike]) -> Flow[list[Description]]:
        """Describe crops."""
        body, headers = _many(images)
        answer = yield from self._post("metadata_creator", body, headers, None)
        return message_in(answer, MetadataResponse).descriptions

    def two_trip(self, image: ImageLike, options: SearchKeywords) -> Flow[TwoTrip]:
        """Find the subject on a small copy, then search with the crop cut from the original."""
        deadline, original = Deadline(self._timeout_s), pixels_of(image)
        small = shrunk(original, _TRIP_EDGE_PX)
        first = as_jpeg(small)
        found = yield from self.detect(first, {"max_detections": 1}, deadline)
        crop, box = original, None
        if found.detections:
            crop, box = cut(original, found.detections[0].box, small.width / original.width)
        second = as_jpeg(shrunk(crop, _TRIP_EDGE_PX))
        response = yield from self.search(second, {**options, "crop": "none"}, deadline)
        return TwoTrip(response, box, len(first) + len(second))

    def thumbnail(self, path: str) -> Flow[bytes]:
        """Fetch a catalogue picture."""
        answer = yield from self._call(Send("GET", path, {**self._headers, "accept": "image/webp, image/jpeg"}), None)
        return answer.body

    def _post(self, model: str, body: bytes, headers: Mapping[str, str], deadline: Deadline | None) -> Flow[Answer]:
        sent = {"content-type": _BYTES, **self._headers, **headers}
        return (yield from self._call(Send("POST", f"/predictions/{model}", sent, body), deadline))

    def _call(self, send: Send, deadline: Deadline | None) -> Flow[Answer]:
        """Send until there is an answer that counts, or no time or attempt is left."""
        deadline, attempt = deadline or Deadline(self._timeout_s), 0
        while True:
            left_s = deadline.left_s()
            told = {**send.headers, DEADLINE_HEADER: f"{left_s * 1000:.0f}"} if send.body else send.headers
            result = yield replace(send, headers=told, timeout_s=left_s)
            if isinstance(result, Answer) and result.status < 400:
                return result
            error, retry_after_s, unreached = _judged(result)
            pause_s = self._policy.pause_s(attempt, error, retry_after_s, unreached)
            if pause_s is None or pause_s >= deadline.left_s():
                raise error
            yield Pause(pause_s)
            attempt += 1


def _judged(result: Result) -> tuple[LookalikeError, float | None, bool]:
    """Return what went wrong, the server's Retry-After in seconds, and whether it was not reached at all."""
    if isinstance(result, Answer):
        text = result.headers.get("retry-after", "")
        return error_in(result), float(text) if text.isascii() and text.isdigit() else None, False
    assert isinstance(result, Failed)
    if result.timed_out:
        return DeadlineExceeded(result.reason), None, False
    return ModelUnavailable(result.reason), None, True


def _option_headers(model: str, options_type: type[BaseModel], given: dict[str, Any]) -> dict[str, str]:
    """Return the options as headers, checked before anything is sent; raises InvalidOption."""
    request_id = given.pop("request_id", None)
    try:
        options = options_type.model_validate(given)
    except ValidationError as error:
        raise InvalidOption(wrong_fields(error), allowed=list(options_type.model_fields)) from error
    headers = option_headers(model, options.model_dump(include=set(given), exclude_none=True))
    return headers if request_id is None else {**headers, REQUEST_ID_HEADER: request_id}


def _many(images: Sequence[ImageLike]) -> tuple[bytes, dict[str, str]]:
    """Return a body of one image as it is, of several as JSON."""
    if len(images) == 1:
        return encoded(images[0]), {}
    texts = [base64.b64encode(encoded(image)).decode() for image in images]
    return json.dumps({"images": texts}).encode(), {"content-type": JSON_TYPE}
