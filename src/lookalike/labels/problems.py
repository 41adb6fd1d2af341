"""What is wrong with a user's lists and images: named by file and line; a run goes on without it or stops there."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lookalike.errors import SetupError

BadInput = Literal["stop", "skip"]
_TOLD = 20  # a wrong imgroot makes every line wrong: the first ones say it all

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """One line that cannot be used."""

    file: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


def settle(problems: Iterable[Problem], bad_input: BadInput) -> None:
    """Tell of `problems` and go on, or stop.

    Raises:
        SetupError: naming the problems, when there are any and `bad_input` is `stop`.
    """
    lines = [str(problem) for problem in problems]
    if not lines:
        return
    told = lines[:_TOLD] + ([f"... and {len(lines) - _TOLD} more"] if len(lines) > _TOLD else [])
    if bad_input == "stop":
        raise SetupError("\n".join(told), allowed="--bad-input skip goes on without them")
    for line in told:
        log.warning("left out: %s", line)
