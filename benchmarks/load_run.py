"""One closed-loop run: locust in a process of its own (it patches the standard library), and what it left."""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from benchmarks.private_server import ROOT
from benchmarks.samples import PHASES_FILE, Figures, Sample, figures_of, read_samples
from benchmarks.shapes import SHAPES, Phase
from lookalike.errors import SetupError

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
TASKS = ("search", "two_trip", "detector", "metadata_creator")  # the others are parts of these
_LAST_LINES = 15


@dataclass(frozen=True)
class Plan:
    """What the clients do."""

    base_url: str
    shape: str
    tasks_per_s: float
    seconds: float
    photos: Path
    processes: int


class Span(NamedTuple):
    """A phase as it took place, in seconds since the epoch, and the samples that began in it."""

    phase: Phase
    start_s: float
    end_s: float
    samples: list[Sample]

    @property
    def tasks_per_s(self) -> float:
        """How many tasks a second were begun."""
        return sum(sample.endpoint in TASKS for sample in self.samples) / (self.end_s - self.start_s)

    def figures_by(self, key: Callable[[Sample], str]) -> dict[str, Figures]:
        """Return the figures of each group of samples."""
        return figures_by(self.samples, key)


def figures_by(samples: Iterable[Sample], key: Callable[[Sample], str]) -> dict[str, Figures]:
    """Return the figures of each group of samples, by the group's name in order."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    return {name: figures_of(groups[name]) for name in sorted(groups)}


def run_clients(plan: Plan, run_dir: Path) -> list[Span]:
    """Let the clients of `locustfile.py` do their tasks and write into `run_dir`; return the phases with their samples.

    Raises:
        SetupError: locust ended before the run did; with the last lines of its log.
    """
    log_file = run_dir / "locust.log"
    command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "-f", str(LOCUSTFILE)]
    # A client that is in the middle of a task ends it: whatever is slow must not get lost at the end of a run.
    command += ["--stop-timeout", "40", "--exit-code-on-error", "0", "--loglevel", "WARNING", "--host", plan.base_url]
    command += ["--shape", plan.shape, "--tasks-per-s", str(plan.tasks_per_s), "--seconds", str(plan.seconds)]
    command += ["--photos", str(plan.photos.resolve()), "--run-dir", str(run_dir.resolve())]
    if plan.processes > 1:
        command += ["--processes", str(plan.processes)]
    with log_file.open("wb") as log:
        finished = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
    spans = read_spans(run_dir, plan.shape)
    if finished.returncode != 0 or len(spans) != len(SHAPES[plan.shape]):
        last = "\n".join(log_file.read_text(errors="replace").splitlines()[-_LAST_LINES:])
        raise SetupError(f"locust ended with status {finished.returncode} before the run was over:\n{last}")
    return spans


def read_spans(run_dir: Path, shape: str) -> list[Span]:
    """Return the phases that a run went through, each with its samples."""
    path = run_dir / PHASES_FILE
    marks = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    phases, samples = {phase.name: phase for phase in SHAPES[shape]}, read_samples(run_dir)
    return [
        Span(
            phases[mark["name"]],
            mark["start_s"],
            following["start_s"],
            [sample for sample in samples if mark["start_s"] <= sample.start_s < following["start_s"]],
        )
        for mark, following in pairwise(marks)
    ]
