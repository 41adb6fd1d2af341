"""Which label tasks the server behind serves, asked of itself: they come and go with its restarts."""

import asyncio
import time
from typing import Any, NamedTuple

from pydantic import ValidationError

from lookalike.errors import LookalikeError
from lookalike.gateway.settings import GatewaySettings
from lookalike.gateway.upstream import Upstream
from lookalike.rows import REQUEST_ID_HEADER
from lookalike.schemas import ModelInfo

_DEFAULT_VERSION = "1.0"


class ServedTask(NamedTuple):
    """A label task as its own `info` tells of it."""

    name: str
    version: str
    labels: tuple[str, ...]

    def example(self) -> dict[str, Any]:
        """Return an answer of this task."""
        first, *others = self.labels
        scores = {first: 0.97, **{label: round(0.03 / len(others), 6) for label in others}} if others else {first: 1.0}
        return {"label": first, "score": scores[first], "sure": True, "scores": scores}


class LabelTasks:
    """Asks for the tasks that the settings name, at most once in `health_cache_s`."""

    def __init__(self, settings: GatewaySettings, upstream: Upstream) -> None:
        self._settings, self._upstream = settings, upstream
        self._asking = asyncio.Lock()
        self._known: tuple[ServedTask, ...] = ()
        self._until_s = 0.0

    async def served(self, request_id: str) -> tuple[ServedTask, ...]:
        """Return those that answer, in the order of the settings."""
        async with self._asking:
            if time.monotonic() >= self._until_s:
                asked = [self._ask(entry, request_id) for entry in self._settings.label_tasks]
                self._known = tuple(task for task in await asyncio.gather(*asked) if task is not None)
                self._until_s = time.monotonic() + self._settings.health_cache_s
        return self._known

    async def _ask(self, entry: str, request_id: str) -> ServedTask | None:
        name, _, version = entry.partition(":")
        path = f"/predictions/{name}/{version or _DEFAULT_VERSION}/info"
        try:
            reply = await self._upstream.call("GET", path, {REQUEST_ID_HEADER: request_id})
            told = ModelInfo.model_validate_json(reply.body, extra="ignore")
        except (LookalikeError, ValidationError):
            return None
        return ServedTask(name, told.version, tuple(told.labels)) if told.labels else None
