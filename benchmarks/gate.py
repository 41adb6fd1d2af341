"""Judges a run: against the budgets of its hardware, and against the baseline that this very hardware left."""

from collections.abc import Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from benchmarks.budgets import Budget, Growth, Machine
from benchmarks.hardware import Hardware
from benchmarks.samples import PERCENTILES, Figures, figures_of
from lookalike.errors import SetupError, wrong_fields

BASELINES = Path(__file__).with_name("baselines")
RATE_REACHED = 0.85  # of the nominal rate: clients think for random times
_SAMPLES_BEYOND = 3  # a percentile with fewer samples beyond it says little

State = Literal["met", "missed", "too few samples"]
Measured = Mapping[str, Mapping[str, Figures]]  # by phase and endpoint


class Verdict(NamedTuple):
    """One figure beside what it may be."""

    phase: str
    endpoint: str
    figure: str
    against: Literal["budget", "baseline"]
    allowed: float
    measured: float
    state: State

    @property
    def excess(self) -> str:
        """Say by how much it was missed."""
        if self.state != "missed":
            return ""
        share = f" ({self.measured / self.allowed - 1:+.0%})" if self.allowed else ""
        return f"{self.measured - self.allowed:+.3g}{share}"


class RunRecord(BaseModel, extra="forbid", frozen=True):
    """What a run measured and on what; kept in `baselines/` for later runs to be compared with."""

    hardware: Hardware | None  # None: of a server elsewhere nothing is known
    taken: date
    shape: str
    photos: str
    tasks_per_s: float
    figures: dict[str, dict[str, Figures]]  # by phase and endpoint


def judge_budgets(machine: Machine, measured: Measured) -> list[Verdict]:
    """Return a verdict for each budget in each phase; an endpoint without samples has too few."""
    none = figures_of([])
    return [
        verdict
        for phase, figures in measured.items()
        for endpoint, budget in machine.endpoints.items()
        for verdict in _judge(phase, endpoint, budget, figures.get(endpoint, none))
    ]


def _judge(phase: str, endpoint: str, budget: Budget, figures: Figures) -> Iterator[Verdict]:
    for name in ("error_share", *PERCENTILES):
        allowed = getattr(budget, name)
        if allowed is not None:
            yield _compared(phase, endpoint, name, "budget", allowed, figures)


def judge_rate(phase: str, nominal_per_s: float, reached_per_s: float) -> Verdict:
    """Return whether the load came up to its rate: percentiles at a lower one prove nothing."""
    allowed = RATE_REACHED * nominal_per_s
    state: State = "met" if reached_per_s >= allowed else "missed"
    return Verdict(phase, "all", "tasks_per_s", "budget", allowed, reached_per_s, state)


def judge_regressions(growth: Growth, before: RunRecord, measured: Measured) -> list[Verdict]:
    """Return a verdict for each percentile that both runs have."""
    return [
        _compared(phase, endpoint, name, "baseline", getattr(earlier, name) * ratio, figures[endpoint])
        for phase, figures in measured.items()
        for endpoint, earlier in before.figures.get(phase, {}).items()
        for name, ratio in growth
        if endpoint in figures
    ]


def _compared(
    phase: str, endpoint: str, figure: str, against: Literal["budget", "baseline"], allowed: float, figures: Figures
) -> Verdict:
    measured = getattr(figures, figure)
    state: State = "met" if measured <= allowed else "missed"
    if figure in PERCENTILES and figures.succeeded * (100 - PERCENTILES[figure]) / 100 < _SAMPLES_BEYOND:
        state = "too few samples"
    return Verdict(phase, endpoint, figure, against, allowed, measured, state)


def why_not_comparable(before: RunRecord, now: RunRecord) -> str | None:
    """Return why an earlier run may not gate this one; None when it may."""
    if now.hardware is None:
        return "the hardware of this run is not known"
    for name in ("hardware", "shape", "photos", "tasks_per_s"):
        if getattr(before, name) != getattr(now, name):
            return f"another {name}: there {getattr(before, name)}, here {getattr(now, name)}"
    return None


def baseline_file(hardware: Hardware, shape: str) -> Path:
    """Return where the baseline of `hardware` is kept."""
    return BASELINES / f"{hardware.slug}-{shape}.json"


def read_record(path: Path) -> RunRecord:
    """Return the run that `path` keeps.

    Raises:
        SetupError: it cannot be read, or a key is wrong.
    """
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise SetupError(f"{path}: {wrong_fields(error)}") from error


def write_record(path: Path, record: RunRecord) -> None:
    """Keep a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(record.model_dump_json(indent=1) + "\n")
