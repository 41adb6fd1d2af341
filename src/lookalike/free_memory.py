"""Gives memory that was freed back to the system: glibc keeps pages of freed image buffers, and a worker creeps up."""

import ctypes
import time
from collections.abc import Callable

TRIM_EVERY_S = 10.0


class FreeMemory:
    """Trims the heap now and then; a call that is too early costs nothing, and without glibc none does anything."""

    def __init__(self, every_s: float = TRIM_EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._next_s = clock() + every_s
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def give_back(self) -> bool:
        """Return freed memory to the system, a matter of milliseconds, if it is time; return whether it was."""
        now_s = self._clock()
        if self._trim is None or now_s < self._next_s:
            return False
        self._next_s = now_s + self._every_s
        self._trim(0)
        return True
