"""Replies in the project's form: JSON messages, and errors with their Retry-After."""

import json

from pydantic import BaseModel
from starlette.responses import Response

from lookalike.errors import LookalikeError
from lookalike.gateway.keys import HOW
from lookalike.rows import JSON_TYPE, retry_header


def message_reply(message: BaseModel, status: int = 200) -> Response:
    """Return `message` as JSON, keys without a value left out."""
    return Response(message.model_dump_json(exclude_none=True), status, media_type=JSON_TYPE)


def error_reply(error: LookalikeError, request_id: str) -> Response:
    """Return `error` in the wire form."""
    body = json.dumps({"error": error.as_dict(), "request_id": request_id}, ensure_ascii=False)
    reply = Response(body.encode(errors="replace"), error.status, media_type=JSON_TYPE)
    reply.headers.update(retry_header(error))
    if error.status == 401:
        reply.headers["www-authenticate"] = HOW[-1].split()[1]
    if error.status == 405 and isinstance(error.allowed, list):
        reply.headers["allow"] = ", ".join(error.allowed)
    return reply
