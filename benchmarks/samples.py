"""Raw samples, one a request, and the figures of them: no percentile is ever taken from a histogram."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field

from lookalike.errors import SetupError

PHASES_FILE = "phases.jsonl"  # when each phase of a run began, beside its samples
PERCENTILES = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99}


@dataclass(frozen=True)
class Sample:
    """One request: when it began (seconds since the epoch), how long it took, and what went wrong, if anything did."""

    endpoint: str
    photo: str
    start_s: float
    latency_ms: float
    error: str | None = None


class Figures(BaseModel, extra="forbid", frozen=True, ser_json_inf_nan="constants"):
    """What is read off samples: percentiles of those that succeeded (none: NaN), and the share that did not."""

    n: Annotated[int, Field(ge=0)]
    error_share: Annotated[float, Field(ge=0, le=1)]
    p50_ms: float
    p95_ms: float
    p99_ms: float

    @property
    def succeeded(self) -> int:
        """How many samples the percentiles are of."""
        return round(self.n * (1 - self.error_share))


class SampleFile:
    """Takes samples as they come, one JSON object a line; a run that is killed keeps what it had."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def add(self, sample: Sample) -> None:
        """Write one line."""
        self._file.write(json.dumps(asdict(sample)) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_samples(folder: Path) -> list[Sample]:
    """Return the samples of all processes that wrote into `folder`, in the order of their start.

    Raises:
        SetupError: a line is cut or is no sample.
    """
    samples = []
    for path in folder.glob("samples-*.jsonl"):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            try:
                samples.append(Sample(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise SetupError(f"{path}:{number} is no sample: {error}") from error
    return sorted(samples, key=lambda sample: sample.start_s)


def figures_of(samples: Iterable[Sample]) -> Figures:
    """Return the figures of `samples`."""
    taken = list(samples)
    good = [sample.latency_ms for sample in taken if sample.error is None]
    errors = (len(taken) - len(good)) / len(taken) if taken else 0.0
    return Figures(n=len(taken), error_share=errors, **percentiles_ms(good))


def percentiles_ms(latencies_ms: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99 of raw latencies (numpy's, interpolated between neighbours); NaN where there are none."""
    if not latencies_ms:
        return dict.fromkeys(PERCENTILES, float("nan"))
    values = np.percentile(latencies_ms, list(PERCENTILES.values()))
    return dict(zip(PERCENTILES, map(float, values), strict=True))
