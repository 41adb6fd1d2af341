"""What each kind of index was measured to cost at 100,000 and 1,000,000 items, and by which law it grows beyond."""

import math
from dataclasses import dataclass
from typing import Literal

from lookalike.errors import SetupError

Kind = Literal["flat", "ivf", "hnsw"]

MEASURED_DIM = 512
# The greatest catalogue that was measured (docs/benchmarks.md, "Kinds of index"); all beyond is extrapolated.
LARGEST_MEASURED = 1_000_000
# docs/benchmarks.md: `python benchmarks/bench_ingest.py --images 300`, 53 images of 1 MP a second on two cores.
EMBEDDED_PER_CORE_S = 53 / 2
# docs/delivery.md: `python -m benchmarks.bench_delivery`, 225 MB took 3.9 s into a store and 2.9 s out of it.
DELIVERED_BYTES, PUSH_S, PULL_S = 225e6, 3.9, 2.9
HNSW_M = 32


@dataclass(frozen=True)
class Measurement:
    """One row of docs/benchmarks.md, "real": the look-up's p50 on one thread, and what building took."""

    items: int
    lookup_ms: float
    ann_recall_at_10: float
    build_core_s: float


# `python -m benchmarks.bench_index --sizes 100000 1000000`; ivf at its default, 256 probes (1,000,000: docs/index.md).
# Of hnsw's building only the wall time on two cores is known, beside other work: both cores are counted, at most.
MEASURED: dict[Kind, tuple[Measurement, ...]] = {
    "flat": (Measurement(100_000, 19.07, 1.0, 0), Measurement(1_000_000, 181.27, 1.0, 0)),
    "ivf": (Measurement(100_000, 1.04, 0.993, 21), Measurement(1_000_000, 3.6, 0.997, 333)),
    "hnsw": (Measurement(100_000, 0.96, 0.996, 2 * 295), Measurement(1_000_000, 1.25, 0.994, 2 * 4226)),
}
LAWS: dict[Kind, str] = {
    "flat": "look-up in proportion to the items",
    "ivf": "look-up with the root of the items (256 lists of 2 sqrt(items) are read), building with items^1.5",
    "hnsw": "look-up with the logarithm of the items, building with the power through both measurements (1.16)",
}


def shared_bytes(kind: Kind, dim: int) -> float:
    """Return the bytes an item that all processes of a machine share: float32, and the graph's links on two sides."""
    return 4 * dim + (8 * HNSW_M if kind == "hnsw" else 0)


def process_bytes(kind: Kind, dim: int) -> float:
    """Return the bytes an item that each process holds for itself: codes of 2 bits a number, and ids."""
    return dim / 4 + 16 if kind == "ivf" else 0


def lookup_ms(kind: Kind, items: float, dim: int = MEASURED_DIM) -> float:
    """Return the core time of one look-up by the kind's law, through the measurement at 1,000,000 items.

    Raises:
        SetupError: for a count or a dim below 1.
    """
    check(items, dim)
    small, large = MEASURED[kind]
    # Below the smallest measurement nothing is known but that no kind takes longer than exact search.
    share = max(items, small.items) / large.items
    exact = MEASURED["flat"][1].lookup_ms * items / LARGEST_MEASURED
    if kind == "flat":
        at_512 = exact
    elif kind == "ivf":
        at_512 = large.lookup_ms * math.sqrt(share)
    else:
        at_512 = large.lookup_ms + (large.lookup_ms - small.lookup_ms) * math.log10(share)
    return min(at_512, exact) * dim / MEASURED_DIM


def build_core_s(kind: Kind, items: float, dim: int = MEASURED_DIM) -> float:
    """Return the core seconds that building takes by the kind's law; none where nothing is built.

    Raises:
        SetupError: for a count or a dim below 1.
    """
    check(items, dim)
    small, large = MEASURED[kind]
    if kind == "flat":
        return 0.0
    power = 1.5 if kind == "ivf" else math.log10(large.build_core_s / small.build_core_s)
    return large.build_core_s * math.pow(items / large.items, power) * dim / MEASURED_DIM


def embed_core_s(items: float) -> float:
    """Return the core seconds that decoding and embedding photos of 1 MP takes; in proportion to the items."""
    return items / EMBEDDED_PER_CORE_S


def delivery_s(items: float, kind: Kind, dim: int = MEASURED_DIM) -> float:
    """Return how long a version takes into a store and out of it; in proportion to its bytes."""
    files = items * (shared_bytes(kind, dim) + process_bytes(kind, dim))
    return files / DELIVERED_BYTES * (PUSH_S + PULL_S)


def check(items: float, dim: int) -> None:
    """Raise a SetupError for a count or a dim below 1."""
    if not (math.isfinite(items) and items >= 1):
        raise SetupError(f"a catalogue of {items} items", allowed="1 or more")
    if dim < 1:
        raise SetupError(f"embeddings of {dim} numbers", allowed="1 or more")
