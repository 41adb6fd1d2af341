"""Watches a server that starts: what is not ready yet, and whether it ever will be."""

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from lookalike.errors import NotReady, SetupError

HEALTH_PATH = "/predictions/search/1.0/healthz"
# A request to a worker that loads is queued and answered when it runs: a long poll hears of it at once.
POLL_LIMIT_S = 2.0
POLL_PAUSE_S = 0.2
# TorchServe starts a dead worker again for ever; one that died this often is not going to load.
DEATHS_LIMIT = 3
LAST_LINES = 25
LONGEST_REASON = 200

_DEATH = re.compile(r'"thread":\s*"(?P<worker>[^"]*)".*Load model failed: (?P<model>[\w-]+), error: Worker died\.')


class Watched(Protocol):
    """The process that is watched."""

    @property
    def base_url(self) -> str:
        """Where it answers."""

    @property
    def log_file(self) -> Path:
        """Where it logs."""

    def is_running(self) -> bool:
        """Tell whether it has not ended."""


def wait_until_ready(
    server: Watched, log_start: int, limit_s: float, say: Callable[[str], None], *, without_index: bool = False
) -> None:
    """Return when a search could be answered (`without_index`: but for the index); say what is missing meanwhile.

    Raises:
        SetupError: when the JVM ended or a worker died again and again; with the log's last lines.
        NotReady: when `limit_s` seconds have passed.
    """
    end_s, said = time.monotonic() + limit_s, ""
    needless = {"index"} if without_index else set()
    while (missing := what_is_missing(server.base_url)).keys() - needless:
        told = "; ".join(f"{name}: {state}" for name, state in missing.items())
        if not server.is_running():
            raise SetupError(f"TorchServe ended while it started:\n{last_lines(server.log_file, log_start)}")
        if dying := dying_model(server.log_file, log_start):
            raise SetupError(f"model {dying} cannot start:\n{last_lines(server.log_file, log_start)}")
        if time.monotonic() > end_s:
            raise NotReady(f"not ready after {limit_s:.0f} s: {told}; the log is {server.log_file}")
        if told != said:
            say(f"waiting for {told}")
            said = told
        time.sleep(POLL_PAUSE_S)


def what_is_missing(base_url: str) -> dict[str, str]:
    """Return what the server's readiness check finds wrong, by part; empty when it is ready."""
    try:
        with urllib.request.urlopen(base_url + HEALTH_PATH, timeout=POLL_LIMIT_S):
            return {}
    except urllib.error.HTTPError as error:
        with error:
            return _missing_in(error.read())
    except TimeoutError:
        return {"search": "does not answer yet"}
    except (OSError, http.client.HTTPException):
        return {"server": "does not listen yet"}


def _missing_in(body: bytes) -> dict[str, str]:
    try:
        checks: dict[str, Any] = json.loads(body)["checks"]
        return {name: _shortened(str(state)) for name, state in checks.items() if state != "ok"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"search": "does not run yet"}


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."


def dying_model(log_file: Path, log_start: int) -> str | None:
    """Return the name of a model one of whose workers died `DEATHS_LIMIT` times since the log had `log_start` bytes."""
    deaths = [(match["model"], match["worker"]) for match in _DEATH.finditer(_log_since(log_file, log_start))]
    return next((death[0] for death in deaths if deaths.count(death) >= DEATHS_LIMIT), None)


def last_lines(log_file: Path, log_start: int) -> str:
    """Return the messages of the log's last lines; what the JVM itself printed, when it never came to log."""
    lines = _log_since(log_file, log_start).splitlines() or _log_since(log_file.with_suffix(".out"), 0).splitlines()
    return "\n".join(f"  {_message(line)}" for line in lines[-LAST_LINES:])


def _message(line: str) -> str:
    try:
        record = json.loads(line)
        return f"{record['message']}\n{record['exception']}" if "exception" in record else str(record["message"])
    except (ValueError, KeyError, TypeError):
        return line


def _log_since(log_file: Path, start: int) -> str:
    if not log_file.exists():
        return ""
    with log_file.open("rb") as file:
        file.seek(min(start, file.seek(0, 2)))
        return file.read().decode(errors="replace")
