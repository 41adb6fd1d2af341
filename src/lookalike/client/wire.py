"""A request and its answer as plain values, and what an error answer means; no input or output happens here."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from lookalike.errors import LookalikeError, ModelFailed

M = TypeVar("M", bound=BaseModel)
_MAX_QUOTED = 300


@dataclass(frozen=True)
class Send:
    """Ask a transport to send this, and to give up after `timeout_s`."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    timeout_s: float = 0.0


@dataclass(frozen=True)
class Pause:
    """Ask a transport to wait."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """What came back; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Failed:
    """What a transport says when nothing came back."""

    reason: str
    timed_out: bool = False


Step = Send | Pause
Result = Answer | Failed | None


def message_in(answer: Answer, model: type[M]) -> M:
    """Return the answer as `model`; fields that a newer server adds are left out.

    Raises:
        ModelFailed: it is something else.
    """
    try:
        return model.model_validate_json(answer.body, extra="ignore")
    except ValidationError as error:
        raise ModelFailed(f"the answer is no {model.__name__}: {error.error_count()} errors") from error


def error_in(answer: Answer) -> LookalikeError:
    """Return the error that the answer tells: of the class with its code, with `request_id` as an attribute.

    An answer in another form, of a proxy in between say, becomes the error of its status.
    """
    try:
        told = json.loads(answer.body)
        code, message, allowed = told["error"]["code"], str(told["error"]["message"]), told["error"].get("allowed")
    except (ValueError, KeyError, TypeError, AttributeError):
        text = answer.body[:_MAX_QUOTED].decode("utf-8", "replace")
        return _of_status(answer.status, f"the service answered {answer.status}: {text}")
    kind = _kinds().get(code)
    error = _of_status(answer.status, message) if kind is None else kind(message, allowed)
    error.request_id = told.get("request_id")
    return error


def _of_status(status: int, message: str) -> LookalikeError:
    """Return an error of a code that is not known here: the first class of its status, else a plain one."""
    kind = next((kind for kind in _kinds().values() if kind.status == status), LookalikeError)
    return kind(message)


def _kinds() -> dict[str, type[LookalikeError]]:
    """Return the classes by their codes; of two with one code the more special counts."""
    kinds: dict[str, type[LookalikeError]] = {}
    waiting: list[type[LookalikeError]] = [LookalikeError]
    for kind in waiting:  # which grows: the tree level by level
        kinds[kind.code] = kind
        waiting += kind.__subclasses__()
    return kinds
