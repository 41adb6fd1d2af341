"""How far a long run is: a bar on a terminal, plain log lines elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

log = logging.getLogger(__name__)
_LINE_EVERY_S = 10.0

Advance = Callable[[int], None]


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f}/s")


@contextmanager
def progress_shown(what: str, total: int) -> Iterator[Advance]:
    """Yield a function that is told how many more of `total` are done; rate and time left are shown on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(what, total).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)


class _Lines:
    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._start_s = self._told_s = time.monotonic()

    def advance(self, done: int) -> None:
        self._done += done
        now_s = time.monotonic()
        if now_s - self._told_s < _LINE_EVERY_S and self._done < self._total:
            return
        self._told_s = now_s
        rate = self._done / max(now_s - self._start_s, 1e-9)
        left_s = (self._total - self._done) / max(rate, 1e-9)
        log.info("%s: %d of %d, %.1f/s, %.0f s left", self._what, self._done, self._total, rate, left_s)
