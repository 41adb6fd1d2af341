"""A server under test as a tree of processes: whatever it starts, daemons too, is found, measured and ended (Linux)."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36
TERM_S, LEFT_S = 15.0, 3.0


def adopt_orphans() -> None:
    """Make this process the parent of every process that a server starts and leaves behind, so that none is lost."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def descendants() -> list[psutil.Process]:
    """Return every process below this one that still runs."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def descendants_memory_mb() -> float:
    """Return the resident memory of all descendants: a page that several of them share counts once (PSS)."""
    total = 0
    for process in descendants():
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 1e6


class CpuMeter:
    """What the descendants, and all others than they and this process, use of the CPUs from now on."""

    def __init__(self) -> None:
        self._start_s, self._used = time.perf_counter(), _used_cpu_s()

    def read(self) -> tuple[float, float]:
        """Return the descendants' CPU seconds, and the share in [0, 1] of the machine's time that others used."""
        elapsed_s = time.perf_counter() - self._start_s
        busy_s, server_s, own_s = (now - then for now, then in zip(_used_cpu_s(), self._used, strict=True))
        # The kernel counts in ticks of 10 ms: a little below zero is nothing.
        return server_s, max(0.0, (busy_s - server_s - own_s) / (elapsed_s * (os.cpu_count() or 1)))


def _used_cpu_s() -> tuple[float, float, float]:
    """Return the CPU seconds so far: of the whole machine (stolen time included), the descendants, and this process."""
    times, server_s = psutil.cpu_times(), 0.0
    for process in descendants():
        with suppress(psutil.NoSuchProcess):
            server_s += sum(process.cpu_times()[:4])  # user, system, and both of children that have ended
    return sum(times[:8]) - times.idle - times.iowait, server_s, time.process_time()


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log_file: Path
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server for the length of the block, its output in `log_file`; nothing of it is left behind."""
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(TERM_S)
        end_descendants()
        process.wait()


def end_descendants() -> None:
    """End whatever a server has left, by force after a while."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = descendants()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        psutil.wait_procs(left, LEFT_S)
