"""What a measurement ran on: figures of unequal hardware are never judged by each other."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field


class Hardware(BaseModel, extra="forbid", frozen=True):
    """The parts of a machine that decide its speed."""

    cpu: str
    cores: Annotated[int, Field(ge=1)]
    gpu: str | None = None

    def __str__(self) -> str:
        return f"{self.cpu}, {self.cores} cores, {self.gpu or 'no GPU'}"

    @property
    def slug(self) -> str:
        """Return a file's name for it."""
        return re.sub(r"[^a-z0-9]+", "-", str(self).lower()).strip("-")


def this_hardware() -> Hardware:
    """Return what this process runs on; of the cores those that it may use."""
    return Hardware(cpu=_cpu(Path("/proc/cpuinfo")), cores=len(os.sched_getaffinity(0)), gpu=_gpu())


def load_average() -> str:
    """Say how busy this machine is, for whoever reads the figures beside it."""
    return f"load average {os.getloadavg()[0]:.1f} at the start"


def _cpu(cpuinfo: Path) -> str:
    """Return the CPU's name, with family and model: clouds call several generations by one name."""
    pairs = (line.partition(":") for line in cpuinfo.read_text().splitlines())
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    if "model name" not in fields:
        return platform.machine()  # ARM names no model here
    return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')})"


def _gpu() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False)
    names = listed.stdout.split("\n")[:-1] if listed.returncode == 0 else []
    return f"{len(names)} x {names[0].strip()}" if names else None
