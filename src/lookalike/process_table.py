"""Knows which processes belong to one server, so that stopping it never ends anything else (Linux: reads /proc)."""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

PROC = Path("/proc")
POLL_S = 0.05


@dataclass(frozen=True)
class ProcessId:
    """A pid together with its start time in clock ticks since boot: pids are used again, the pair is not."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        """Return the identity of a process that runs; None for one that has ended, zombies included."""
        try:
            stat = (PROC / str(pid) / "stat").read_text()
        except OSError:
            return None
        # The name stands in brackets and may hold anything; the fields after it are numbers and letters.
        state, *fields = stat.rpartition(")")[2].split()
        return None if state in "ZX" else cls(pid, int(fields[18]))

    def is_running(self) -> bool:
        """Tell whether this very process still runs."""
        return ProcessId.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if this very process still runs."""
        if self.is_running():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def server_processes(run_dir: Path) -> list[ProcessId]:
    """Return the JVM and the workers of the server whose private folder is `run_dir`, found by their arguments."""
    jvm = f"-Djava.io.tmpdir={run_dir}"
    socket_prefix = f"{run_dir}/"
    found = []
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        arguments = _arguments(folder)
        worker = any(flag == "--sock-name" and value.startswith(socket_prefix) for flag, value in pairwise(arguments))
        identity = ProcessId.of(int(folder.name)) if worker or jvm in arguments else None
        if identity is not None:
            found.append(identity)
    return found


def wait_until_ended(processes: Iterable[ProcessId], limit_s: float) -> bool:
    """Wait until all have ended, at most `limit_s`; return whether they have."""
    left, end_s = list(processes), time.monotonic() + limit_s
    while left := [process for process in left if process.is_running()]:
        if time.monotonic() > end_s:
            return False
        time.sleep(POLL_S)
    return True


def _arguments(folder: Path) -> list[str]:
    try:
        return (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
