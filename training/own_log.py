"""The log of a training command: its own lines of progress, and of the libraries only what is wrong."""

import logging
from collections.abc import Callable

from lookalike.errors import LookalikeError

_log = logging.getLogger(__name__)


def show_own_log(line: str = "%(asctime)s %(message)s") -> None:
    """Log what this project says from INFO on, and the exporter and its like from WARNING on."""
    logging.basicConfig(level=logging.WARNING, format=line)
    for name in ("training", "lookalike", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)


def exit_status(run: Callable[[], object]) -> int:
    """Return 0 when `run` comes to its end, 1 when a user's error stops it, which is told in one line."""
    try:
        run()
    except LookalikeError as error:
        _log.error("%s%s", error.message, f" (allowed: {error.allowed})" if error.allowed else "")
        return 1
    return 0
