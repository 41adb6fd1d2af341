"""A circuit breaker: a model server that fails call after call is left alone for a while, then tried by one call."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lookalike.errors import DeadlineExceeded, ModelFailed, ModelUnavailable

logger = logging.getLogger(__name__)


class CircuitState(NamedTuple):
    """What metrics tell of a circuit: whether it is open, and how often it opened."""

    is_open: bool
    opened: int


class Circuit:
    """Between the router and one model's servers.

    Closed: every call passes. After `failures` failed calls in a row it opens: calls are refused at once, which spares
    the client the wait and the server the load. Half-open: every `open_s` one call passes as a probe; the first call
    that succeeds closes the circuit.

    A call that did not end in time counts as failed only when the server had at least `slow_s` for it: a client with a
    short deadline must not shut out the others.
    """

    def __init__(
        self, stage: str, failures: int, open_s: float, slow_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`failures` 0: the circuit never opens. `clock` returns seconds."""
        self._stage, self._limit, self._open_s, self._slow_s, self._clock = stage, failures, open_s, slow_s, clock
        self._failed_in_a_row = 0
        self._opened = 0
        self._probe_at_s: float | None = None  # None: closed

    @property
    def state(self) -> CircuitState:
        """Whether it is open, and how often it opened."""
        return CircuitState(self._probe_at_s is not None, self._opened)

    @contextmanager
    def call(self, always: bool = False) -> Iterator[None]:
        """Let one call through and learn from how it ends; `always`: also while the circuit is open.

        Raises:
            ModelUnavailable: the circuit is open, with the seconds until the next probe.
        """
        if not always:
            self._admit()
        start_s = self._clock()
        try:
            yield
        except (ModelUnavailable, ModelFailed):
            self._fail()
            raise
        except (asyncio.CancelledError, DeadlineExceeded):
            if self._clock() - start_s >= self._slow_s:
                self._fail()
            raise
        self._succeed()

    def _admit(self) -> None:
        if self._probe_at_s is None:
            return
        now_s = self._clock()
        if now_s < self._probe_at_s:
            raise ModelUnavailable(
                f"{self._stage}: the model server failed {self._limit} calls in a row and is left alone for now",
                retry_after_s=self._probe_at_s - now_s,
            )
        self._probe_at_s = now_s + self._open_s  # one probe; those who come meanwhile are refused

    def _fail(self) -> None:
        self._failed_in_a_row += 1
        # What fails while the circuit is open is a probe, or was under way when it opened.
        if self._probe_at_s is None and 0 < self._limit <= self._failed_in_a_row:
            self._probe_at_s = self._clock() + self._open_s
            self._opened += 1
            logger.warning("%(stage)s: the circuit opens", {"stage": self._stage})

    def _succeed(self) -> None:
        self._failed_in_a_row = 0
        if self._probe_at_s is not None:
            self._probe_at_s = None
            logger.info("%(stage)s: the circuit closes", {"stage": self._stage})
