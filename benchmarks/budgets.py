"""The budgets of `budgets.yaml`: what each kind of hardware must hold, at which rate, endpoint by endpoint."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from benchmarks.hardware import Hardware
from lookalike.errors import SetupError
from training.configuration import read_config

BUDGETS_FILE = Path(__file__).with_name("budgets.yaml")

# What the load's clients call; `two_trip` is both trips of one search together.
Endpoint = Literal["search", "two_trip", "two_trip.detector", "two_trip.search", "detector", "metadata_creator"]
Milliseconds = Annotated[float, Field(gt=0)]
Ratio = Annotated[float, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Budget(BaseModel, extra="forbid", frozen=True):
    """What one endpoint may take; a percentile that is left out is not judged."""

    p50_ms: Milliseconds | None = None
    p95_ms: Milliseconds | None = None
    p99_ms: Milliseconds | None = None
    error_share: Share

    @model_validator(mode="after")
    def _percentiles_rise(self) -> "Budget":
        given = [value for value in (self.p50_ms, self.p95_ms, self.p99_ms) if value is not None]
        if not given:
            raise ValueError("names no percentile: one of p50_ms, p95_ms, p99_ms is needed")
        if given != sorted(given):
            raise ValueError("a higher percentile may not have a smaller budget")
        return self


class Growth(BaseModel, extra="forbid", frozen=True):
    """How many times a percentile of the baseline may come back before it counts as a regression."""

    p50_ms: Ratio
    p95_ms: Ratio


class OpenLoopBudget(BaseModel, extra="forbid", frozen=True):
    """What a search may take at the highest rate that still counts as served."""

    p99_ms: Milliseconds
    error_share: Share


class Machine(BaseModel, extra="forbid", frozen=True):
    """The budgets of one kind of hardware."""

    hardware: Hardware
    tasks_per_s: Annotated[float, Field(gt=0)]
    endpoints: Annotated[dict[Endpoint, Budget], Field(min_length=1)]
    open_loop: OpenLoopBudget


class Budgets(BaseModel, extra="forbid", frozen=True):
    """The whole file."""

    unknown_hardware_tasks_per_s: Annotated[float, Field(gt=0)]  # there it reports only
    growth: Growth
    machines: dict[str, Machine]

    @model_validator(mode="after")
    def _each_hardware_once(self) -> "Budgets":
        seen = [machine.hardware for machine in self.machines.values()]
        if len(set(seen)) != len(seen):
            raise ValueError("machines: two entries have the same hardware")
        return self

    def machine_of(self, hardware: Hardware | None) -> Machine | None:
        """Return the entry of that very hardware, if there is one."""
        return next((machine for machine in self.machines.values() if machine.hardware == hardware), None)

    def machine(self, name: str) -> Machine:
        """Return the entry called `name`.

        Raises:
            SetupError: there is none.
        """
        if name not in self.machines:
            raise SetupError(f"{BUDGETS_FILE.name} has no machine {name!r}", allowed=sorted(self.machines))
        return self.machines[name]


def read_budgets(path: Path = BUDGETS_FILE) -> Budgets:
    """Return the budgets in `path`.

    Raises:
        SetupError: the file cannot be read, or a key is wrong; naming it.
    """
    return read_config(path, Budgets)
