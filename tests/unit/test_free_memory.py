"""Freed memory goes back to the system, seldom enough to cost nothing."""

import numpy as np
import psutil

from lookalike.free_memory import FreeMemory


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_it_trims_at_most_once_in_its_time() -> None:
    clock = Clock()
    memory = FreeMemory(10, clock)
    told = []
    for clock.now_s in (1, 9, 10, 11, 19, 20):
        told.append(memory.give_back())
    assert told == [False, False, True, False, False, True]


def test_what_was_freed_leaves_the_process() -> None:
    rss = psutil.Process().memory_info
    # Below the size that glibc maps on its own: these blocks come from the heap, and their pages stay in it.
    blocks = [np.ones(100_000, np.uint8) for _ in range(2000)]
    last = np.ones(100_000, np.uint8)  # keeps the heap's end where it is
    del blocks
    before = rss().rss
    assert FreeMemory(0).give_back()
    assert before - rss().rss > 50_000_000
    assert last.all()
