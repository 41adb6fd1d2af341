"""Keeps an index folder like the store for as long as the process lives, and says how it fares in a small file."""

import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from lookalike.delivery.pull import IndexPuller, Pulled
from lookalike.errors import LookalikeError
from lookalike.index.durable import replace_file
from lookalike.index.layout import IndexLayout

log = logging.getLogger(__name__)
STATUS_FILE = "follow.json"


def follow(puller: IndexPuller, index_dir: Path, url: str, poll_s: float) -> Iterator[None]:
    """Pull every `poll_s` seconds; yields after each look. Whatever fails, what was published here goes on."""
    status = _Status(index_dir, url)
    while True:
        try:
            status.tell(puller.pull())
        except LookalikeError as error:
            status.fail(error.message)
        except Exception as error:
            # Whatever a file of the store provokes in a library, the version in use goes on.
            status.fail(str(error) if isinstance(error, OSError) else repr(error))
        yield
        time.sleep(poll_s)


def end_on_signals(exit_code: int) -> None:
    """End the process at once on SIGTERM and SIGINT: what was got so far stays, and nothing half is published."""

    def end(number: int, frame: FrameType | None) -> None:
        # Not SystemExit: the object store's client would first wait for its connections.
        os._exit(exit_code)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def read_status(index_dir: Path) -> dict[str, Any] | None:
    """Return what the follower of `index_dir` last said, or None where none follows."""
    try:
        status = json.loads((index_dir / STATUS_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return status if isinstance(status, dict) else None


class _Status:
    """The status file, and a log line whenever the cause of a failure changes."""

    def __init__(self, index_dir: Path, url: str) -> None:
        self._layout, self._url = IndexLayout(index_dir), url
        self._cause: str | None = None

    def tell(self, pulled: Pulled) -> None:
        for manifest in pulled.versions:
            if manifest.version in pulled.new:
                log.info(
                    "index version %s is here: %d items of embedder %s",
                    manifest.version,
                    manifest.count,
                    manifest.fingerprint,
                )
        causes = "; ".join(error.message for error in pulled.problems.values())
        self._write(causes or None)

    def fail(self, cause: str) -> None:
        self._write(cause)

    def _write(self, cause: str | None) -> None:
        in_use = self._in_use()
        if cause != self._cause:
            if cause is None:
                log.info("following %s again; in use: %s", self._url, in_use or "none")
            else:
                log.error("the index cannot be brought up to date: %s; in use: %s", cause, in_use or "none")
        self._cause = cause
        status = {
            "url": self._url,
            "state": "ok" if cause is None else "failing",
            "cause": cause,
            "version": in_use,
            "checked": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        try:
            self._layout.index_dir.mkdir(parents=True, exist_ok=True)
            replace_file(self._layout.index_dir / STATUS_FILE, (json.dumps(status, indent=2) + "\n").encode())
        except OSError as error:
            log.error("the status cannot be written: %s", error)

    def _in_use(self) -> str | None:
        try:
            return self._layout.current_version()
        except (LookalikeError, OSError):
            return None
