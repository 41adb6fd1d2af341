"""One request and its reply, free of any server; and how a request's bytes become an image, arrays and options."""

import base64
import binascii
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from lookalike.circuit import CircuitState
from lookalike.errors import InvalidOption, InvalidRequest, LookalikeError, wrong_fields
from lookalike.schemas import IndexInfo, SearchRequest

JSON_TYPE = "application/json"
NPY_TYPE = "application/x-npy"
NPZ_TYPE = "application/x-npz"

OPTION_HEADER = "x-lookalike-"
DEADLINE_HEADER = "x-lookalike-deadline-ms"
PATH_HEADER = "x-lookalike-path"
FINGERPRINT_HEADER = "x-lookalike-fingerprint"
PREPROCESS_HEADER = "x-lookalike-preprocess"
REQUEST_ID_HEADER = "x-request-id"
# In replies TorchServe overwrites `x-request-id` by an id of its own.
REPLY_ID_HEADER = "x-lookalike-request-id"
RETRY_HEADER = "retry-after"
RETRY_AFTER_S = 1.0  # where the error names no other time
_RESERVED_HEADERS = {DEADLINE_HEADER, PATH_HEADER, FINGERPRINT_HEADER, PREPROCESS_HEADER, REPLY_ID_HEADER}
# Options that are structures: in a header or a multipart field they come as JSON text.
STRUCTURED = {"box", "filters", "like", "unlike"}

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Row:
    """One request: lower-cased headers, and a raw body, a parsed JSON value or multipart fields."""

    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    json: Any = None
    fields: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Return what follows the model's name and version in the URL, such as `healthz`."""
        return (self.headers.get("url_path") or self.headers.get(PATH_HEADER) or "").strip("/")

    @property
    def content_type(self) -> str:
        """Return the body's media type, without parameters."""
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    def accepts(self, media_type: str) -> bool:
        """Tell whether the client asked for `media_type` by name."""
        return media_type in self.headers.get("accept", "").lower()


@dataclass(frozen=True)
class Reply:
    """One answer, with what the server's metrics and log need to know of it."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    index: IndexInfo | None = None
    code: str | None = None
    circuits: Mapping[str, CircuitState] = field(default_factory=dict)


def json_reply(message: BaseModel, status: int = 200, **details: Any) -> Reply:
    """Return `message` as a JSON reply."""
    return Reply(status, message.model_dump_json(exclude_none=True).encode(), **details)


def error_reply(error: LookalikeError, row: Row) -> Reply:
    """Return `error` in the wire form, with the request's id."""
    body = {"error": error.as_dict(), "request_id": row.request_id}
    headers = retry_header(error)
    # A message may quote a lone surrogate of the client's JSON, which UTF-8 cannot hold.
    content = json.dumps(body, ensure_ascii=False).encode(errors="replace")
    return Reply(error.status, content, headers=headers, code=error.code)


def retry_header(error: LookalikeError) -> dict[str, str]:
    """Return the header that says when to come back, in whole seconds; none for what waiting does not mend."""
    if error.status not in (429, 503):
        return {}
    return {RETRY_HEADER: str(max(1, math.ceil(error.retry_after_s or RETRY_AFTER_S)))}


def npy_bytes(array: NDArray[Any]) -> bytes:
    """Return `array` in numpy's .npy format, in one copy: `np.save` into a buffer takes ten times as long."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return header.getvalue() + array.tobytes("F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C")


def array_reply(array: NDArray[Any], headers: Mapping[str, str]) -> Reply:
    """Return `array` in numpy's .npy format."""
    return Reply(200, npy_bytes(array), NPY_TYPE, headers)


def arrays_reply(arrays: Mapping[str, NDArray[Any]], headers: Mapping[str, str]) -> Reply:
    """Return named arrays in numpy's uncompressed .npz format."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return Reply(200, buffer.getvalue(), NPZ_TYPE, headers)


def array_in(data: bytes) -> NDArray[Any]:
    """Read an array in .npy format.

    Raises:
        InvalidRequest: for anything else, and for arrays of Python objects.
    """
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy raises ValueError, OSError, EOFError and, for odd headers, SyntaxError
        raise InvalidRequest(f"the body is no array in .npy format: {error}", allowed=NPY_TYPE) from error
    if not isinstance(array, np.ndarray):  # numpy opens an .npz, too
        raise InvalidRequest("the body is an archive, no array in .npy format", allowed=NPY_TYPE)
    return array


def images_in(row: Row, max_images: int) -> list[bytes]:
    """Return the encoded images of a raw, JSON or multipart body, in order.

    Raises:
        InvalidRequest: when there is none, more than `max_images`, or one that is not valid base64.
    """
    if row.json is not None:
        images = _json_images(row.json, max_images)
    elif row.content_type == JSON_TYPE:
        raise InvalidRequest("the body is not valid JSON", allowed='{"image": base64, ...}')
    elif row.fields:
        images = [value for name, value in row.fields.items() if name.startswith("image")]
    else:
        images = [row.body] if row.body else []
    if not images or not all(images):
        raise InvalidRequest(
            "no image in the request",
            allowed=["an image as the raw body", "a multipart part named image", 'JSON {"image": base64}'],
        )
    _check_count(len(images), max_images)
    return images


def _check_count(images: int, max_images: int) -> None:
    if images > max_images:
        raise InvalidRequest(f"{images} images in one request; at most {max_images} are taken")


def _json_images(payload: Any, max_images: int) -> list[bytes]:
    if not isinstance(payload, dict):
        raise InvalidRequest("a JSON body must be an object", allowed='{"image": base64, ...}')
    if "image_url" in payload:
        raise InvalidOption("image_url is switched off on this service", allowed=["image"])
    texts = payload.get("images", [payload["image"]] if "image" in payload else [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequest("image must be a base64 string, images a list of them")
    _check_count(len(texts), max_images)  # before any of them is decoded
    return [_decode_base64(text) for text in texts]


def _decode_base64(text: str) -> bytes:
    data = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"image is not valid base64: {error}") from error


def options_in(row: Row, model: type[M], **given: Any) -> M:
    """Validate the options that ride in JSON fields, multipart fields and `x-lookalike-*` headers.

    A field of the body wins over a header of the same name, which must be right all the same.

    Raises:
        InvalidOption: naming each wrong option and the ones that exist.
    """
    headers, body = _header_options(row), _body_options(row)
    try:
        if hidden := {name: headers[name] for name in headers.keys() & body.keys()}:
            model.model_validate({**hidden, **given})
        return model.model_validate({**headers, **body, **given})
    except ValidationError as error:
        names = [name for name in model.model_fields if name not in given]
        raise InvalidOption(wrong_fields(error), allowed=names) from error


def _header_options(row: Row) -> dict[str, Any]:
    names = (name for name in row.headers if name.startswith(OPTION_HEADER) and name not in _RESERVED_HEADERS)
    return {
        (option := name.removeprefix(OPTION_HEADER).replace("-", "_")): _from_text(option, row.headers[name])
        for name in names
    }


def _body_options(row: Row) -> dict[str, Any]:
    if isinstance(row.json, dict):
        return {name: value for name, value in row.json.items() if name not in ("image", "images", "image_url")}
    fields = {name: value for name, value in row.fields.items() if not name.startswith("image")}
    return {name: _from_text(name, value.decode("utf-8", "replace")) for name, value in fields.items()}


def _from_text(option: str, text: str) -> Any:
    if option not in STRUCTURED:
        return text
    as_json = f"[{text}]" if option == "box" and not text.lstrip().startswith("[") else text
    try:
        return json.loads(as_json)
    except (ValueError, RecursionError) as error:
        raise InvalidOption(f"{option} is not valid JSON: {error}") from error


def search_request_in(row: Row) -> SearchRequest:
    """Return the one search that `row` asks for.

    Raises:
        InvalidRequest, InvalidOption: saying what is wrong and what is allowed.
    """
    (image,) = images_in(row, max_images=1)
    return options_in(row, SearchRequest, image=image)
