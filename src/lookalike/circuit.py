"""A circuit breaker: while a server answers nothing, calls to it fail at once instead of waiting for their deadline."""

import logging
import math
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Circuit:
    """Opens after calls in a row without an answer; then one call at a time tries whether there is one again.

    Source: Nygard 2007, "Release It!", the circuit breaker pattern. For one event loop: nothing here is locked.
    """

    def __init__(self, name: str, failures: int, open_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`failures` in a row open it, 0 never; `open_s` after the last failure one call is let through."""
        self._name, self._failures, self._open_s, self._clock = name, failures, open_s, clock
        self._in_a_row = 0
        self._try_at = -math.inf  # no call before, while it is open

    @property
    def is_open(self) -> bool:
        """Whether the last calls had no answer."""
        return 0 < self._failures <= self._in_a_row

    def wait_s(self) -> float:
        """Return 0 for a call that may go, or the seconds until one may; one that goes while it is open is the try."""
        if not self.is_open:
            return 0.0
        left_s = self._try_at - self._clock()
        if left_s > 0:
            return left_s
        self._try_at = self._clock() + self._open_s  # the others wait for what comes of it
        return 0.0

    def answered(self) -> None:
        """Note a call with an answer, whatever it was: the server is there."""
        if self.is_open:
            logger.warning("%s answers again", self._name)
        self._in_a_row = 0

    def failed(self) -> None:
        """Note a call without an answer."""
        self._in_a_row += 1
        self._try_at = self._clock() + self._open_s
        if self._in_a_row == self._failures:
            logger.warning("%s did not answer %d calls in a row: it is spared", self._name, self._failures)
