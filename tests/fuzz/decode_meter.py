"""Decodes the files that standard input names, one a line, and tells of each: the outcome, its time, its memory."""

import json
import sys
import time
from pathlib import Path

from lookalike.config import ImageLimits
from lookalike.errors import LookalikeError
from lookalike.images import decode_image

_MIB = 1024  # kB


def memory_mib(name: str) -> float:
    """Return a line of this process's status: `VmRSS` now, `VmHWM` at most since `forget_peak`."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / _MIB


def forget_peak() -> None:
    """Let `VmHWM` begin anew (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def measured(data: bytes) -> dict[str, object]:
    """Decode once, and tell what it took beyond what was in use before, the body itself included there."""
    forget_peak()
    before_mib, start_s = memory_mib("VmRSS"), time.perf_counter()
    try:
        decode_image(data, ImageLimits())
        outcome = "decoded"
    except LookalikeError as error:
        outcome = error.code
    elapsed_ms = (time.perf_counter() - start_s) * 1000
    return {"outcome": outcome, "ms": elapsed_ms, "mib": max(0.0, memory_mib("VmHWM") - before_mib)}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(measured(Path(line.strip()).read_bytes())), flush=True)
