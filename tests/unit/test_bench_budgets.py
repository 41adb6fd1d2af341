"""The files that a load test goes by: the ones that are kept are valid, and what is wrong is named."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.budgets import BUDGETS_FILE, Budget, Budgets, read_budgets
from benchmarks.gate import BASELINES, read_record
from benchmarks.photo_mix import read_mix
from benchmarks.shapes import SECONDS, SHAPES, clients_for, phase_at
from lookalike.config import ImageLimits
from lookalike.errors import SetupError


def kept() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(BUDGETS_FILE.read_text())
    return loaded


def test_the_budgets_that_are_kept_are_valid() -> None:
    budgets = read_budgets()
    assert isinstance(budgets, Budgets)
    for name, machine in budgets.machines.items():
        assert budgets.machine_of(machine.hardware) is budgets.machine(name)


def test_the_baselines_that_are_kept_are_of_machines_with_budgets() -> None:
    hardware = {machine.hardware for machine in read_budgets().machines.values()}
    for path in BASELINES.glob("*.json"):
        record = read_record(path)
        assert record.hardware in hardware
        assert path.name == f"{record.hardware.slug}-{record.shape}.json"


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (("machines", "epyc-2", "endpoints", "search", "p90_ms"), 5, "endpoints.search.p90_ms"),
        (("machines", "epyc-2", "endpoints", "serach"), {"p50_ms": 5, "error_share": 0}, "serach"),
        (("machines", "epyc-2", "endpoints", "search"), {"error_share": 0}, "no percentile"),
        (("machines", "epyc-2", "endpoints", "search", "p50_ms"), 1e6, "higher percentile"),
        (("machines", "epyc-2", "endpoints", "search", "error_share"), 2, "error_share"),
        (("machines", "epyc-2", "tasks_per_s"), 0, "tasks_per_s"),
        (("machines", "epyc-2", "hardware", "cores"), "many", "hardware.cores"),
        (("growth", "p50_ms"), 0.9, "growth.p50_ms"),
        (("surprise",), 1, "surprise"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, keys: tuple[str, ...], value: object, named: str) -> None:
    document = kept()
    section = document
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    path = tmp_path / "budgets.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(SetupError, match=named):
        read_budgets(path)


def test_the_same_hardware_twice_is_refused(tmp_path: Path) -> None:
    document = kept()
    document["machines"]["again"] = document["machines"]["epyc-2"]
    path = tmp_path / "budgets.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(SetupError, match="same hardware"):
        read_budgets(path)


def test_a_missing_file_and_an_unknown_machine_are_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"none\.yaml: cannot be read"):
        read_budgets(tmp_path / "none.yaml")
    with pytest.raises(SetupError, match="no machine 'epyc-3'") as caught:
        read_budgets().machine("epyc-3")
    assert "epyc-2" in (caught.value.allowed or ())


def test_percentiles_may_be_left_out_but_not_all() -> None:
    assert Budget(p95_ms=5, error_share=0).p50_ms is None


def test_the_photos_that_are_kept_are_within_what_the_service_takes() -> None:
    kinds, limits = read_mix().kinds, ImageLimits()
    assert len({kind.name for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert kind.megapixels * 1e6 <= limits.max_pixels
        assert (kind.kilobytes or 0) * 1000 <= limits.max_bytes
    sizes = [kind.kilobytes for kind in kinds if kind.kilobytes]
    assert min(sizes) <= 120
    assert max(sizes) >= 6000


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_shape_warms_up_unjudged_fills_its_seconds_and_is_judged(shape: str) -> None:
    phases, seconds = SHAPES[shape], SECONDS[shape]
    assert not phases[0].judged
    assert any(phase.judged for phase in phases)
    assert sum(phase.share for phase in phases) == pytest.approx(1)
    met = [phase_at(shape, second / 10, seconds) for second in range(10 * seconds)]
    assert list(dict.fromkeys(met)) == list(phases)
    assert phase_at(shape, seconds + 0.1, seconds) is None


def test_clients_make_up_the_rate_and_a_spike_is_four_times_it() -> None:
    assert clients_for(3, 1) == 30
    spike = next(phase for phase in SHAPES["spike"] if phase.name == "spike")
    assert clients_for(3, spike.height) == 120
    assert clients_for(0.001, 1) == 1
