"""Every error that a user of Lookalike can meet, each with its HTTP status and its stable code.

LookalikeError                      500 internal_error
├── RequestError                        the client can mend it
│   ├── InvalidRequest              400 invalid_request
│   ├── Unauthorized                401 unauthorized
│   ├── Forbidden                   403 forbidden
│   ├── UnknownPath                 404 unknown_path
│   ├── UnknownItem                 404 unknown_item
│   ├── ImageGone                   404 image_gone
│   ├── MethodNotAllowed            405 method_not_allowed
│   ├── RequestTimeout              408 request_timeout
│   ├── LengthRequired              411 length_required
│   ├── ImageTooLarge               413 image_too_large
│   ├── BodyTooLarge                413 body_too_large
│   ├── UnsupportedImage            415 unsupported_image
│   ├── CorruptImage                422 corrupt_image
│   ├── InvalidOption               422 invalid_option
│   ├── ImageUrlRefused             422 image_url_refused
│   ├── ImageUrlFailed              422 image_url_failed
│   ├── RateLimited                 429 rate_limited
│   ├── TooManyAtOnce               429 too_many_at_once
│   └── HeadersTooLarge             431 headers_too_large
├── ServiceError                        the operator can mend it
│   ├── NotReady                    503 not_ready
│   ├── ModelUnavailable            503 model_unavailable
│   ├── ModelFailed                 503 model_failed
│   ├── Overloaded                  503 overloaded
│   └── DeadlineExceeded            504 deadline_exceeded
├── VectorIndexError                        the index cannot be used
│   ├── IndexUnavailable            503 index_unavailable
│   ├── IndexMismatch               503 index_mismatch
│   ├── IndexDamaged                503 index_damaged
│   └── IndexBusy                   503 index_busy
└── SetupError                      500 setup_error     a setting, a weight file, a catalogue
    ├── NotStored                   507 not_stored      a disk that is full, or may not be written
    └── StoreError                                      what a store holds, or that it refuses
        ├── StoreMissing                                something is not there
        ├── StoreDamaged                                something is not what its manifest says
        ├── StoreMoved                                  another publisher was first
        └── StoreUnreachable                            no answer: the one that may heal by itself
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import ValidationError

_MOST_TEXTS, _MOST_CHARACTERS = 10, 200


class LookalikeError(Exception):
    """An error with an HTTP status, a code that stays the same across versions, and what is allowed instead."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, allowed: Sequence[str] | str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.allowed = allowed
        self.retry_after_s = retry_after_s  # the header Retry-After
        self.request_id: str | None = None  # of the request that a client got this error for

    def as_dict(self) -> dict[str, object]:
        """Return the wire form `{"code", "message", "allowed"}`; `allowed` only when there is something to name."""
        wire: dict[str, object] = {"code": self.code, "message": self.message}
        if self.allowed is not None:
            wire["allowed"] = self.allowed if isinstance(self.allowed, str) else list(self.allowed)
        return wire


class RequestError(LookalikeError):
    """The request is at fault."""

    status, code = 400, "invalid_request"


class InvalidRequest(RequestError):
    """The body cannot be read: no image in it, malformed JSON, malformed base64, a malformed array."""


class Unauthorized(RequestError):
    """No API key came along, or one that is not known."""

    status, code = 401, "unauthorized"


class Forbidden(RequestError):
    """The API key's role does not cover the call, or the call is switched off here."""

    status, code = 403, "forbidden"


class UnknownPath(RequestError):
    """A path behind the model's name that the model does not serve."""

    status, code = 404, "unknown_path"


class UnknownItem(RequestError):
    """The index has no item of this id."""

    status, code = 404, "unknown_item"


class ImageGone(RequestError):
    """The index has the item, but its image file is not there any more, or lies outside of the allowed folders."""

    status, code = 404, "image_gone"


class MethodNotAllowed(RequestError):
    """The path is served, but not by this method."""

    status, code = 405, "method_not_allowed"


class RequestTimeout(RequestError):
    """The client took too long to send its request."""

    status, code = 408, "request_timeout"


class LengthRequired(RequestError):
    """The body's length must be named before it is sent."""

    status, code = 411, "length_required"


class ImageTooLarge(RequestError):
    """More bytes, pixels or pixels along an edge than the operator allows."""

    status, code = 413, "image_too_large"


class BodyTooLarge(RequestError):
    """The request's body has more bytes than the operator allows."""

    status, code = 413, "body_too_large"


class UnsupportedImage(RequestError):
    """The bytes are no image, or an image of a format that is not read."""

    status, code = 415, "unsupported_image"


class CorruptImage(RequestError):
    """The format is known, but the data is truncated or damaged."""

    status, code = 422, "corrupt_image"


class InvalidOption(RequestError):
    """An option is unknown, of the wrong type or out of range."""

    status, code = 422, "invalid_option"


class ImageUrlRefused(RequestError):
    """The address in `image_url` is not one that the service fetches from."""

    status, code = 422, "image_url_refused"


class ImageUrlFailed(RequestError):
    """The image behind `image_url` could not be fetched."""

    status, code = 422, "image_url_failed"


class RateLimited(RequestError):
    """More requests than this key or address may send; `retry_after_s` says when to come back."""

    status, code = 429, "rate_limited"


class TooManyAtOnce(RequestError):
    """As many requests of this key or address are under way as one may have."""

    status, code = 429, "too_many_at_once"


class HeadersTooLarge(RequestError):
    """The request's line and headers have more bytes than the operator allows."""

    status, code = 431, "headers_too_large"


class ServiceError(LookalikeError):
    """A part of the service is at fault; the request may be sent again."""

    status, code = 503, "not_ready"


class NotReady(ServiceError):
    """The service is starting, or a model or the index that it depends on is missing."""


class ModelUnavailable(ServiceError):
    """A model server cannot be reached."""

    status, code = 503, "model_unavailable"


class ModelFailed(ServiceError):
    """A model server answered with an error."""

    status, code = 503, "model_failed"


class Overloaded(ServiceError):
    """As many requests as the service takes at a time are under way."""

    status, code = 503, "overloaded"


class DeadlineExceeded(ServiceError):
    """A stage did not end within the request's deadline."""

    status, code = 504, "deadline_exceeded"


class VectorIndexError(LookalikeError):
    """The index cannot be used."""

    status, code = 503, "index_unavailable"


class IndexUnavailable(VectorIndexError):
    """There is no published index version."""


class IndexMismatch(VectorIndexError):
    """The index was built by another embedder, or for another dimension or metric."""

    status, code = 503, "index_mismatch"


class IndexDamaged(VectorIndexError):
    """A file of the index is missing, cut or altered, or its format is newer than this program."""

    status, code = 503, "index_damaged"


class IndexBusy(VectorIndexError):
    """Another process is writing this index."""

    status, code = 503, "index_busy"


class SetupError(LookalikeError):
    """A setting, a weight file or a catalogue is wrong; the message names it."""

    code = "setup_error"


class NotStored(SetupError):
    """A file cannot be written: no space is left, or the folder is read-only; what was published before stays."""

    status, code = 507, "not_stored"


class StoreError(SetupError):
    """A store of models or index holds something wrong, or refuses."""


class StoreMissing(StoreError):
    """The store has no object, folder or bucket of this name."""


class StoreDamaged(StoreError):
    """An object of the store is not what its manifest says."""


class StoreMoved(StoreError):
    """The store holds something newer than what this was made from, or something else under the same name."""


class StoreUnreachable(StoreError):
    """The store does not answer."""


def wrong_fields(error: ValidationError) -> str:
    """Return what pydantic found wrong, each field by its path: `a.b: must be ...; c: ...`."""
    told = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
    return few((text.removeprefix(": ") for text in told), "; ")


def few(texts: Iterable[str], between: str = ", ") -> str:
    """Return the first ten of `texts`, each cut at 200 characters: a client's own words must not fill the answer."""
    first = [text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..." for text in texts]
    more = [f"and {len(first) - _MOST_TEXTS} more"] if len(first) > _MOST_TEXTS else []
    return between.join(first[:_MOST_TEXTS] + more)
