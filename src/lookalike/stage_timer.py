"""One timer for a request's stages, which feeds metrics, response and benchmarks; and the request's deadline."""

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from lookalike.errors import DeadlineExceeded

T = TypeVar("T")


class Deadline:
    """An absolute point in time for the request `request_id`; every stage works with the time that is left."""

    def __init__(self, budget_ms: float, request_id: str = "") -> None:
        self.budget_ms, self.request_id = budget_ms, request_id
        self._end_s = time.monotonic() + budget_ms / 1000

    def left_ms(self) -> float:
        """Return the milliseconds left, never below zero."""
        return max(0.0, (self._end_s - time.monotonic()) * 1000)

    async def bound(self, stage: str, work: Awaitable[T], limit_ms: float | None = None) -> T:
        """Await `work`, at most `limit_ms` and never past the deadline.

        Raises:
            DeadlineExceeded: naming the stage.
        """
        left_ms = self.left_ms() if limit_ms is None else min(self.left_ms(), limit_ms)
        try:
            return await asyncio.wait_for(work, left_ms / 1000)
        except TimeoutError as error:
            raise DeadlineExceeded(f"stage {stage!r} did not end within {left_ms:.0f} ms") from error


class StageTimer:
    """Wall-clock milliseconds by stage; stages may overlap, so their sum may exceed `total`."""

    def __init__(self) -> None:
        self._start_s = time.perf_counter()
        self._stages_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside the block to stage `name`."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            elapsed_ms = (time.perf_counter() - start_s) * 1000
            self._stages_ms[name] = self._stages_ms.get(name, 0.0) + elapsed_ms

    def timings_ms(self) -> dict[str, float]:
        """Return each stage's milliseconds and `total`, the time since the timer was made."""
        total_ms = (time.perf_counter() - self._start_s) * 1000
        return {name: round(ms, 2) for name, ms in {**self._stages_ms, "total": total_ms}.items()}
