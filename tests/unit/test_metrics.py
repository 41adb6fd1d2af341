"""Metrics leave a worker as the lines that TorchServe parses."""

import logging
import re
import warnings
from pathlib import Path

import pytest

from lookalike.circuit import CircuitState
from lookalike.metrics import RequestMetrics

METRICS_YAML = Path(__file__).parents[2] / "docker/metrics.yaml"
# org.pytorch.serve.metrics.Metric in TorchServe 0.12.0; a line that does not match is dropped.
PARSED = re.compile(
    r"\[METRICS\]\s*([\w\s]+)\.([\w\s]+):([0-9\-,.e]+)\|#([^|]*)(\|#type:([^|,]+))?\|#hostname:([^,]+),([^,]+)(,(.*))?"
)


@pytest.fixture
def request_metrics():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # torchserve leaves files to the garbage collector
        from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

        cache = MetricsCacheYamlImpl(str(METRICS_YAML))
    cache.initialize_cache()
    return RequestMetrics(cache)


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO)
    return lambda: [PARSED.fullmatch(r.message) for r in caplog.records if r.message.startswith("[METRICS]")]


def test_a_reply_is_counted_by_endpoint_and_status(request_metrics, lines):
    request_metrics.count("search", 422)
    (line,) = lines()
    assert line.group(1, 3, 4, 6) == ("lookalike_requests_total", "1", "endpoint:search,status:422", "COUNTER")


@pytest.mark.parametrize("seconds", [0.0123, 1e-9, 123456.7, 0.0])
def test_a_stage_is_observed_in_seconds_that_the_server_can_parse(request_metrics, lines, seconds):
    request_metrics.stage("detect", seconds)
    (line,) = lines()
    assert float(line[3]) == pytest.approx(seconds, abs=1e-6)
    assert line.group(4, 6) == ("stage:detect", "HISTOGRAM")


def test_the_index_is_reported_when_it_changes_and_the_one_before_falls_to_zero(request_metrics, lines):
    for version, items in [("v1", 5), ("v1", 5), ("v2", 7)]:
        request_metrics.index(version, items)
    assert [(line[4], line[3]) for line in lines()] == [("version:v1", "5"), ("version:v1", "0"), ("version:v2", "7")]


def test_a_label_cannot_break_its_line(request_metrics, lines):
    request_metrics.index("a,b:c|#d\n", 1)
    (line,) = lines()
    assert line[4] == "version:a_b_c__d_"


def test_without_torchserve_nothing_happens():
    silent = RequestMetrics(None)
    silent.count("search", 200)
    silent.stage("detect", 1.0)
    silent.index("v1", 1)


def test_a_circuit_is_reported_when_it_opens_or_closes_and_each_opening_counts(request_metrics, lines):
    for is_open, opened in [(False, 0), (False, 0), (True, 1), (True, 1), (False, 3)]:
        request_metrics.circuit("embed", CircuitState(is_open, opened))
    told = [(line[1], line[3]) for line in lines()]
    gauge, counter = "lookalike_circuit_open", "lookalike_circuit_opened_total"
    assert told == [(gauge, "0"), (gauge, "1"), (counter, "1"), (gauge, "0"), (counter, "2")]
