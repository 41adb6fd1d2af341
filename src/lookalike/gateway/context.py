"""What the gateway keeps of one request from its headers to its log line."""

import time
import uuid
from dataclasses import dataclass, field

from starlette.types import Scope

from lookalike.rows import REQUEST_ID_HEADER
from lookalike.ts_adapter import clean_request_id

_KEY = "lookalike.context"


@dataclass
class RequestContext:
    """The request's id and headers (lower-cased names; of a repeated one the last counts), and what is learnt of it."""

    request_id: str
    headers: dict[str, str]
    client: str
    route: str = "unmatched"
    key: str | None = None
    code: str | None = None
    start_s: float = field(default_factory=time.perf_counter)


def new_context(scope: Scope) -> RequestContext:
    """Make the context of a request and keep it in its scope."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    request_id = clean_request_id(headers.get(REQUEST_ID_HEADER)) or uuid.uuid4().hex
    client = scope.get("client")
    context = RequestContext(request_id, headers, client[0] if client else "")
    scope[_KEY] = context
    return context


def context_of(scope: Scope) -> RequestContext:
    """Return the context that `new_context` kept."""
    context = scope[_KEY]
    assert isinstance(context, RequestContext)
    return context
