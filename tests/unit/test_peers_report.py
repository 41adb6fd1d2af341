"""Tables, ratios and throughput at equal p99, by figures that are worked out by hand."""

import pytest

from benchmarks.peers.measure import Results, Sample, Start
from benchmarks.peers.report import (
    closed_loop_table,
    cpu_ms,
    equal_p99_table,
    format_report,
    one_client_table,
    points,
    rate_within,
    ratio_table,
)


def sample(system, number, clients, latencies_ms, elapsed_s, cpu_s=1.0, others_share=0.0):
    return Sample(system, number, clients, tuple(latencies_ms), elapsed_s, cpu_s, others_share)


@pytest.fixture
def results():
    return Results(
        samples=[
            sample("Lookalike", 1, 1, [10, 20, 30], 0.1, cpu_s=0.06),
            sample("Lookalike", 2, 1, [20, 40, 60], 0.2, cpu_s=0.12),
            sample("Lookalike", 1, 2, [40] * 4, 0.1, cpu_s=0.08),
            sample("Lookalike", 2, 2, [80] * 4, 0.2, cpu_s=0.16),
            sample("peer", 1, 1, [20, 30, 40], 0.2, cpu_s=0.12, others_share=0.02),
            sample("peer", 2, 1, [10, 20, 30], 0.2, cpu_s=0.12, others_share=0.04),
            sample("peer", 1, 2, [60] * 4, 0.1, cpu_s=0.16, others_share=0.06),
            sample("peer", 2, 2, [60] * 4, 0.1, cpu_s=0.16, others_share=0.08),
        ],
        starts=[
            Start("Lookalike", 1, 5.0, 1000),
            Start("Lookalike", 2, 7.0, 2000),
            Start("peer", 1, 2.0, 500),
            Start("peer", 2, 3.0, 500),
        ],
    )


def rows(markdown):
    header, _, *lines = markdown.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (header, *lines)]
    return {line[0]: dict(zip(cells[0][1:], line[1:], strict=True)) for line in cells[1:]}


CURVE = [(50.0, 20.0), (100.0, 30.0), (200.0, 32.0)]


@pytest.mark.parametrize(
    ("limit_ms", "rate"),
    [(49.9, None), (50.0, 20.0), (75.0, 25.0), (100.0, 30.0), (150.0, 31.0), (200.0, 32.0), (1000.0, 32.0)],
)
def test_the_rate_within_a_p99_lies_on_the_line_between_what_was_measured(limit_ms, rate):
    assert rate_within(CURVE, limit_ms) == (None if rate is None else pytest.approx(rate))


def test_a_p99_that_one_client_had_by_chance_does_not_hide_what_two_had():
    assert rate_within([(120.0, 20.0), (100.0, 30.0)], 110.0) == pytest.approx(30.0)


def test_a_rate_that_falls_under_load_does_not_take_back_what_fewer_clients_had():
    assert rate_within([(50.0, 30.0), (100.0, 25.0)], 100.0) == pytest.approx(30.0)


def test_points_pool_the_rounds(results):
    (p99_ms, rate), (_, rate_of_two) = points(results, "Lookalike")
    assert rate == pytest.approx(6 / 0.3)
    assert rate_of_two == pytest.approx(8 / 0.3)
    assert 40 < p99_ms <= 60


def test_one_client_is_told_with_memory_cpu_and_what_others_used(results):
    told = rows(one_client_table(results))
    assert told["Lookalike"]["p50 ms"] == "25.0"
    assert told["Lookalike"]["CPU ms a search"] == f"{1000 * 0.42 / 14:.1f}"
    assert told["Lookalike"]["memory MB"] == "1500"
    assert told["peer"]["ready after s"] == "2.5"
    assert told["peer"]["others' CPU"] == "5%"


def test_the_closed_loop_has_a_column_for_each_number_of_clients(results):
    told = rows(closed_loop_table(results))
    assert told["peer"] == {"1 client": "15.0 (40)", "2 clients": "40.0 (60)"}


def test_equal_p99_holds_each_system_to_the_p99_of_the_reference(results):
    told = rows(equal_p99_table(results, "Lookalike"))
    assert told["Lookalike"] == {"59 ms (1)": "20.0 (1.00)", "80 ms (2)": "26.7 (1.00)"}
    assert told["peer"]["80 ms (2)"] == "40.0 (1.50)"


def test_a_system_that_never_has_such_a_p99_gets_no_rate():
    slow = [sample("peer", 1, 1, [500.0] * 5, 2.5), sample("Lookalike", 1, 1, [50.0] * 5, 0.25)]
    told = rows(equal_p99_table(Results(samples=slow), "Lookalike"))
    assert list(told["peer"].values()) == ["–"]


def test_a_ratio_is_taken_within_each_round(results):
    told = rows(ratio_table(results, "Lookalike"))
    assert told["Lookalike"]["p50"] == "1.00 (1.00–1.00)"
    assert told["peer"]["p50"] == "1.00 (0.50–1.50)"  # 30 / 20 and 20 / 40
    assert told["peer"]["most searches/s"] == "1.50 (1.00–2.00)"  # 40 / 40 and 40 / 20
    assert told["peer"]["memory"] == "0.38 (0.25–0.50)"


def test_cpu_is_shared_among_all_searches(results):
    assert cpu_ms([s for s in results.samples if s.system == "peer"]) == pytest.approx(1000 * 0.56 / 14)


def test_what_was_left_out_is_told_with_its_reason_and_without_figures(results):
    results.leave_out("peer", "the server ended with 1")
    report = format_report(results, "Lookalike")
    assert report.endswith("### Left out\n\n- peer: the server ended with 1\n")
    assert "| peer |" not in report


def test_nothing_is_said_of_left_out_systems_where_there_are_none(results):
    assert "Left out" not in format_report(results, "Lookalike")
