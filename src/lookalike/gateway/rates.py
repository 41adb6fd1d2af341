"""Rate limits: the generic cell rate algorithm (ITU-T I.371), one number a client.

Not by the library `limits`: its in-memory storage looks at every client upon each request, 2 ms a request with 10,000
clients, which makes many addresses a way to slow the service down.
"""

import re
import time
from collections.abc import Callable
from typing import NamedTuple, Self

_UNIT_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_RATE = re.compile(rf"([1-9]\d{{0,8}})/({'|'.join(_UNIT_S)})")
_SWEEP_AT = 4096


class Rate(NamedTuple):
    """So many requests in so many seconds; all of them may come at once."""

    amount: int
    period_s: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `600/minute`.

        Raises:
            ValueError: for anything else.
        """
        match = _RATE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no rate: write 600/minute, with {', '.join(_UNIT_S)}")
        return cls(int(match[1]), _UNIT_S[match[2]])

    def __str__(self) -> str:
        return f"{self.amount} requests in {self.period_s} s"


class RateLimiter:
    """Counts the requests of each client against one rate."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self._clock = rate, clock
        self._due_s: dict[str, float] = {}  # when a client's requests so far are worked off
        self._sweep_at = _SWEEP_AT

    def hit(self, client: str) -> float:
        """Count one request; return 0 when it may pass, else the seconds after which the next one may."""
        now_s, each_s = self._clock(), self.rate.period_s / self.rate.amount
        due_s = max(self._due_s.get(client, now_s), now_s) + each_s
        # Half an interval of grace: sums of floats must not cost a client its last request.
        early_s = due_s - now_s - self.rate.period_s
        if early_s > each_s / 2:
            return early_s
        self._due_s[client] = due_s
        self._sweep(now_s)
        return 0.0

    def _sweep(self, now_s: float) -> None:
        """Forget clients that are even, each time their number has doubled: on average one step a request."""
        if len(self._due_s) >= self._sweep_at:
            self._due_s = {client: due_s for client, due_s in self._due_s.items() if due_s > now_s}
            self._sweep_at = max(_SWEEP_AT, 2 * len(self._due_s))
