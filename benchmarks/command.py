"""What the benchmarks' commands share: arguments, a folder a run, a user's error as one line and exit status 1."""

import argparse
import math
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from lookalike.errors import LookalikeError


def exit_status(run: Callable[[], int]) -> int:
    """Return what `run` returns, or 1 when it stops with an error that is told."""
    try:
        return run()
    except LookalikeError as error:
        allowed = error.allowed if isinstance(error.allowed, str) else ", ".join(error.allowed or ())
        print(f"error: {error.message}" + (f" (allowed: {allowed})" if allowed else ""), file=sys.stderr)
    except OSError as error:  # a folder that may not be written: the system's own words say it
        print(f"error: {error}", file=sys.stderr)
    return 1


def new_run_dir(parent: Path, name: str = "") -> Path:
    """Make and return a folder for what one run writes, named after `name` and the time."""
    folder = parent / "-".join(part for part in (name, f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}") if part)
    folder.mkdir(parents=True)
    return folder


def positive(text: str) -> float:
    """Read an argument that must be a number above zero."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def positive_count(text: str) -> int:
    """Read an argument that must be a whole number above zero."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value
