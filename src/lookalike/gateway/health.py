"""Whether the gateway lives, and whether a search could be answered."""

import asyncio
import time

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from lookalike.errors import LookalikeError
from lookalike.gateway.context import context_of
from lookalike.gateway.replies import message_reply
from lookalike.gateway.upstream import Upstream
from lookalike.rows import DEADLINE_HEADER, REQUEST_ID_HEADER
from lookalike.schemas import Health

UPSTREAM_HEALTH = "/predictions/search/1.0/healthz"


class HealthCheck:
    """Asks the server behind, at most once in `cache_s`: a health check runs every model, and is open to everybody."""

    def __init__(self, upstream: Upstream, cache_s: float, timeout_s: float) -> None:
        """`timeout_s`: a server that takes longer to say that it is ready, is not."""
        self._upstream, self._cache_s, self._timeout_ms = upstream, cache_s, timeout_s * 1000
        self._asking = asyncio.Lock()
        self._known: Health | None = None
        self._until_s = 0.0

    async def healthz(self, request: Request) -> Response:
        """Answer 200 when a search could be answered, else 503 with what is missing."""
        context_of(request.scope).route = "/healthz"
        async with self._asking:
            if self._known is None or time.monotonic() >= self._until_s:
                self._known = await self._ask(context_of(request.scope).request_id)
                self._until_s = time.monotonic() + self._cache_s
        return message_reply(self._known, 200 if self._known.ready else 503)

    async def _ask(self, request_id: str) -> Health:
        headers = {REQUEST_ID_HEADER: request_id, DEADLINE_HEADER: f"{self._timeout_ms:.0f}"}
        try:
            reply = await self._upstream.call("GET", UPSTREAM_HEALTH, headers)
            told = Health.model_validate_json(reply.body, extra="ignore")
        except LookalikeError as error:
            return Health(ready=False, checks={"server": error.message})
        except ValidationError:
            return Health(ready=False, checks={"server": "answers in a form that is not known"})
        return told.model_copy(update={"checks": {"server": "ok", **told.checks}})


async def livez(request: Request) -> Response:
    """Answer as long as the process answers."""
    context_of(request.scope).route = "/livez"
    return message_reply(Health(ready=True, checks={"gateway": "ok"}))
