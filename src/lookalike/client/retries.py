"""When a call is sent again, and how long it waits before: within one deadline for all attempts together."""

import random
from dataclasses import dataclass

from lookalike.errors import LookalikeError

_RETRIED = (429, 503)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


@dataclass(frozen=True)
class RetryPolicy:
    """How often a call may be sent again; every call here only reads, so that a lost answer does no harm."""

    retries: int = 2

    def pause_s(
        self, attempt: int, error: LookalikeError, retry_after_s: float | None, unreached: bool
    ) -> float | None:
        """Return the seconds to wait before attempt `attempt` + 1, or None when there is none.

        The server's own word (Retry-After) wins; else the pause doubles, and chance keeps many clients apart.
        """
        if attempt >= self.retries or not (unreached or error.status in _RETRIED):
            return None
        if retry_after_s is not None:
            return retry_after_s
        ceiling_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
        return random.uniform(ceiling_s / 2, ceiling_s)
