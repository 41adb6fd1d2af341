"""Who is judged by what: budgets and baselines gate on equal hardware, and are only reported beside any other."""

from datetime import date
from pathlib import Path

import pytest

from benchmarks import gate, load
from benchmarks.budgets import Budget, Budgets, Growth, Machine, OpenLoopBudget
from benchmarks.gate import RunRecord, Verdict, judge_budgets, judge_rate, judge_regressions, why_not_comparable
from benchmarks.hardware import Hardware, this_hardware
from benchmarks.load_run import Span
from benchmarks.samples import Figures, Sample
from benchmarks.server_under_test import judged_by
from benchmarks.shapes import Phase
from lookalike.errors import SetupError

SMALL = Hardware(cpu="Small CPU", cores=2)
LARGE = Hardware(cpu="Small CPU", cores=64)
NAN = float("nan")


def budgets(hardware: Hardware = SMALL) -> Budgets:
    machine = Machine(
        hardware=hardware,
        tasks_per_s=10,
        endpoints={"search": Budget(p50_ms=100, p95_ms=200, error_share=0.01)},
        open_loop=OpenLoopBudget(p99_ms=500, error_share=0),
    )
    return Budgets(unknown_hardware_tasks_per_s=1, growth=Growth(p50_ms=1.2, p95_ms=1.5), machines={"small": machine})


def figures(p50_ms: float = 90, p95_ms: float = 150, n: int = 200, error_share: float = 0) -> Figures:
    return Figures(n=n, error_share=error_share, p50_ms=p50_ms, p95_ms=p95_ms, p99_ms=2 * p95_ms)


def record(hardware: Hardware | None = SMALL, tasks_per_s: float = 10, **measured: Figures) -> RunRecord:
    return RunRecord(
        hardware=hardware,
        taken=date(2026, 1, 2),
        shape="steady",
        photos="some",
        tasks_per_s=tasks_per_s,
        figures={"steady": measured or {"search": figures()}},
    )


def spans(tasks_per_s: float = 10) -> list[Span]:
    samples = [Sample("search", "photo", i / tasks_per_s, 90) for i in range(round(10 * tasks_per_s))]
    return [Span(Phase("steady", 1, 1), 0, 10, samples)]


def states(verdicts: list[Verdict]) -> dict[str, str]:
    return {verdict.figure: verdict.state for verdict in verdicts}


def test_figures_within_their_budgets_are_met() -> None:
    verdicts = judge_budgets(budgets().machine("small"), record().figures)
    assert states(verdicts) == {"error_share": "met", "p50_ms": "met", "p95_ms": "met"}


def test_a_miss_says_by_how_much() -> None:
    verdicts = judge_budgets(budgets().machine("small"), record(search=figures(p50_ms=125)).figures)
    missed = [verdict for verdict in verdicts if verdict.state == "missed"]
    assert [(verdict.figure, verdict.excess) for verdict in missed] == [("p50_ms", "+25 (+25%)")]


def test_errors_and_nothing_but_errors_are_missed() -> None:
    some = judge_budgets(budgets().machine("small"), record(search=figures(error_share=0.02)).figures)
    assert states(some)["error_share"] == "missed"
    only = judge_budgets(budgets().machine("small"), record(search=figures(NAN, NAN, error_share=1)).figures)
    assert "met" not in states(only).values()


def test_a_percentile_of_too_few_samples_is_not_met() -> None:
    """Three samples beyond it: 60 for p95; failed ones do not count."""
    machine = budgets().machine("small")
    assert states(judge_budgets(machine, record(search=figures(n=60)).figures))["p95_ms"] == "met"
    assert states(judge_budgets(machine, record(search=figures(n=59)).figures))["p95_ms"] == "too few samples"
    assert states(judge_budgets(machine, {"steady": {}}))["p50_ms"] == "too few samples"


def test_a_load_that_did_not_come_up_to_its_rate_is_missed() -> None:
    assert judge_rate("steady", 10, 8.6).state == "met"
    assert judge_rate("steady", 10, 8.4).state == "missed"


def test_a_regression_is_what_grew_beyond_the_allowed_ratio() -> None:
    growth, now = budgets().growth, record(search=figures(p50_ms=109, p95_ms=224)).figures
    assert states(judge_regressions(growth, record(), now)) == {"p50_ms": "missed", "p95_ms": "met"}


@pytest.mark.parametrize(("hardware", "status"), [(SMALL, 1), (LARGE, 0), (None, 0)])
def test_a_missed_budget_fails_the_run_on_equal_hardware_only(
    hardware: Hardware | None, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = record(hardware, search=figures(p50_ms=125))
    verdicts = load.judge_by_budgets(budgets(), budgets().machine("small"), spans(), slow)
    assert load.conclude(verdicts) == status
    told = capsys.readouterr().out
    assert "**missed** | +25 (+25%)" in told
    assert ("reported, not judged" in told) == (status == 0)


def test_budgets_do_not_judge_another_rate_and_hardware_without_an_entry(capsys: pytest.CaptureFixture[str]) -> None:
    slow = record(tasks_per_s=11, search=figures(p50_ms=125))
    assert load.judge_by_budgets(budgets(), budgets().machine("small"), spans(11), slow) == []
    assert "the budgets hold at 10 tasks/s" in capsys.readouterr().out
    assert load.judge_by_budgets(budgets(), None, spans(), record(LARGE)) == []
    assert "nothing is judged" in capsys.readouterr().out


@pytest.mark.parametrize(("hardware", "status"), [(SMALL, 1), (LARGE, 0)])
def test_a_baseline_gates_on_equal_hardware_only(
    tmp_path: Path, hardware: Hardware, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baseline.json"
    gate.write_record(path, record(hardware))
    slow = record(SMALL, search=figures(p50_ms=125))
    assert load.conclude(load.judge_by_baseline(budgets(), slow, path)) == status
    assert ("another hardware" in capsys.readouterr().out) == (status == 0)


def test_a_baseline_of_other_photos_or_of_an_unknown_server_is_not_comparable() -> None:
    assert why_not_comparable(record(), record()) is None
    assert "photos" in str(why_not_comparable(record().model_copy(update={"photos": "others"}), record()))
    assert "not known" in str(why_not_comparable(record(None), record(None)))


def test_only_a_run_that_met_its_budgets_becomes_a_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BASELINES", tmp_path)
    machine = budgets().machine("small")
    slow, quick = record(search=figures(p50_ms=125)), record()
    assert load.keep_as_baseline(slow, judge_budgets(machine, slow.figures)) == 1
    assert not list(tmp_path.iterdir())
    assert load.keep_as_baseline(quick, judge_budgets(machine, quick.figures)) == 0
    assert gate.read_record(tmp_path / "small-cpu-2-cores-no-gpu-steady.json") == quick


def test_a_damaged_baseline_is_named(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text('{"hardware": null, "surprise": 1}')
    with pytest.raises(SetupError, match=r"baseline\.json: .*surprise"):
        gate.read_record(path)


def test_a_server_elsewhere_runs_on_what_the_user_says_and_one_here_on_this_machine() -> None:
    given = budgets()
    assert judged_by(given, "http://10.0.0.7:8080", None) == (None, None)
    assert judged_by(given, "http://10.0.0.7:8080", "small") == (SMALL, given.machine("small"))
    assert judged_by(given, "http://127.0.0.1:8080", "small") == (this_hardware(), given.machine("small"))
    assert judged_by(given, None, None) == (this_hardware(), None)
    here = budgets(this_hardware())
    assert judged_by(here, None, None) == (this_hardware(), here.machine("small"))
