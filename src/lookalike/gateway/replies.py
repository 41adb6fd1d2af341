"""Replies in the project's form: JSON messages, and errors with their Retry-After."""

import json
import math

from pydantic import BaseModel
from starlette.responses import Response

from lookalike.errors import LookalikeError
from lookalike.gateway.keys import HOW
from lookalike.rows import JSON_TYPE

_RETRY_AFTER_S = 1


def message_reply(message: BaseModel, status: int = 200) -> Response:
    """Return `message` as JSON, keys without a value left out."""
    return Response(message.model_dump_json(exclude_none=True), status, media_type=JSON_TYPE)


def error_reply(error: LookalikeError, request_id: str) -> Response:
    """Return `error` in the wire form."""
    body = json.dumps({"error": error.as_dict(), "request_id": request_id}, ensure_ascii=False)
    reply = Response(body.encode(errors="replace"), error.status, media_type=JSON_TYPE)
    if error.status in (429, 503):
        reply.headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s or _RETRY_AFTER_S)))
    if error.status == 401:
        reply.headers["www-authenticate"] = HOW[-1].split()[1]
    if error.status == 405 and isinstance(error.allowed, list):
        reply.headers["allow"] = ", ".join(error.allowed)
    return reply
