"""Runs the gateway as a process in the background: started, watched until it answers, found again, stopped."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from lookalike.errors import NotReady, SetupError
from lookalike.process_table import ProcessId, wait_until_ended
from lookalike.server_config import free_ports, require_free
from lookalike.server_watch import last_lines

STATE_FILE = "gateway.json"
START_S, DRAIN_S, KILL_S, POLL_S = 30.0, 10.0, 5.0, 0.05
OTHER_PORT = "--port or LOOKALIKE_GATEWAY_PORT chooses another; `lookalike stop` ends what runs here in the background"
PORT = "LOOKALIKE_GATEWAY_PORT"


class GatewayProcess(BaseModel, extra="forbid", frozen=True):
    """A gateway in the background, as `gateway.json` keeps it."""

    pid: int
    start_ticks: int
    base_url: str
    log_file: Path

    @property
    def identity(self) -> ProcessId:
        """The very process, not another one that got its pid."""
        return ProcessId(self.pid, self.start_ticks)

    def answers(self) -> bool:
        """Tell whether it serves."""
        try:
            with urllib.request.urlopen(f"{self.base_url}/livez", timeout=2) as reply:
                return bool(reply.status == 200)
        except (OSError, urllib.error.URLError):
            return False


def start_gateway(arguments: Sequence[str], host: str, port: int, state: Path) -> GatewayProcess:
    """Start `lookalike web` with `arguments` in the background and return when it answers.

    Raises:
        SetupError: the port is taken, or it ended while it started; with the log's last lines.
        NotReady: it does not answer in time.
    """
    reachable = "127.0.0.1" if host == "0.0.0.0" else host
    port = port or free_ports(host, 1)[0]
    require_free(host, port, OTHER_PORT)
    log_file = state / "logs/gateway.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "lookalike.cli", "web", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {PORT: str(port)},  # which wins over every other place that names a port
            start_new_session=True,  # Ctrl-C in the terminal is not meant for it
        )
    identity = ProcessId.of(child.pid) or ProcessId(child.pid, -1)
    process = GatewayProcess(
        pid=child.pid,
        start_ticks=identity.start_ticks,
        base_url=f"http://{reachable}:{port}",
        log_file=log_file,
    )
    (state / STATE_FILE).write_text(process.model_dump_json(indent=2) + "\n")
    try:
        _wait_until_it_answers(process)
    except BaseException:  # an interrupt too must leave nothing behind
        stop_gateway(state)
        child.wait(KILL_S)
        raise
    return process


def running_gateway(state: Path) -> GatewayProcess | None:
    """Return the gateway whose state file lies in `state`, if it still runs."""
    try:
        process = GatewayProcess.model_validate_json((state / STATE_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    return process if process.identity.is_running() else None


def stop_gateway(state: Path) -> bool:
    """Stop the gateway whose state file lies in `state`, by force after a while; return whether one ran."""
    process = running_gateway(state)
    if process is not None:
        process.identity.send(signal.SIGTERM)
        if not wait_until_ended([process.identity], DRAIN_S):
            process.identity.send(signal.SIGKILL)
            wait_until_ended([process.identity], KILL_S)
    (state / STATE_FILE).unlink(missing_ok=True)
    return process is not None


def _wait_until_it_answers(process: GatewayProcess) -> None:
    end_s = time.monotonic() + START_S
    while not process.answers():
        if not process.identity.is_running():
            raise SetupError(f"the gateway ended while it started:\n{last_lines(process.log_file, 0)}")
        if time.monotonic() > end_s:
            raise NotReady(f"the gateway does not answer after {START_S:.0f} s; the log is {process.log_file}")
        time.sleep(POLL_S)
