"""Alerts, dashboard and autoscalers ask for metrics that are exported, in PromQL that parses; no raw counter scales."""

import json
import re

import promql_parser
import pytest
import yaml

from tests.k8s.manifests import ROOT, Manifest, build, of_kind, overlay
from tests.k8s.test_builds import make

MONITORING = ROOT / "k8s/components/monitoring"
RUNBOOK = ROOT / "docs/runbook.md"
PROMETHEUS_OWN = {"up"}


def exported() -> set[str]:
    declared = yaml.safe_load((ROOT / "docker/metrics.yaml").read_text())
    kinds = [(metric["name"], kind) for group in declared.values() for kind, ms in group.items() for metric in ms]
    series = {name for name, _ in kinds}
    return series | {
        f"{name}_{end}" for name, kind in kinds if kind == "histogram" for end in ("bucket", "sum", "count")
    }


def alerts() -> list[Manifest]:
    rule = of_kind(overlay("production"), "PrometheusRule")["lookalike"]
    return [one for group in rule["spec"]["groups"] for one in group["rules"]]


def panels() -> list[Manifest]:
    return json.loads((MONITORING / "dashboard.json").read_text())["panels"]


def adapter_rule() -> Manifest:
    values = yaml.safe_load((ROOT / "k8s/components/autoscaling/prometheus-adapter-values.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    return rule


def adapter_query() -> str:
    rule = adapter_rule()
    filled = {"Series": rule["seriesQuery"].split("{")[0], "LabelMatchers": 'pod="a"', "GroupBy": "pod"}
    return re.sub(r"<<\.(\w+)>>", lambda found: filled[found[1]], rule["metricsQuery"])


def scaled_objects(tmp_path) -> dict[str, Manifest]:
    return of_kind(make(tmp_path / "keda", ("autoscaling-keda",)), "ScaledObject")


def queries(tmp_path) -> dict[str, str]:
    found = {f"alert {one['alert']}": one["expr"] for one in alerts()}
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", "5m").replace("$namespace", "lookalike")
            found[f"panel {panel['title']} {target['refId']}"] = query
    keda = {
        f"keda {name}": one["spec"]["triggers"][0]["metadata"]["query"]
        for name, one in scaled_objects(tmp_path).items()
    }
    return found | keda | {"adapter": adapter_query()}


def metrics_of(query: str) -> set[str]:
    """Return the series that a query reads; raises ValueError when it is no PromQL."""
    names = re.findall(r"\b([a-zA-Z_]\w+)\s*(?:\{|\[)", promql_parser.parse(query).prettify())
    return set(names)


def test_every_query_is_promql_over_exported_metrics(tmp_path) -> None:
    for where, query in queries(tmp_path).items():
        named = metrics_of(query)
        assert named and named <= exported() | PROMETHEUS_OWN, where


def test_a_query_with_a_metric_that_is_not_exported_is_found() -> None:
    assert metrics_of('sum(rate(lookalike_searches_total{a="b"}[5m]))') - exported() == {"lookalike_searches_total"}
    with pytest.raises(ValueError):
        metrics_of("sum(rate(lookalike_requests_total[5m])")


def test_every_autoscaler_follows_requests_in_flight_never_a_raw_counter(tmp_path) -> None:
    for one in of_kind(overlay("production"), "HorizontalPodAutoscaler").values():
        (metric,) = one["spec"]["metrics"]
        assert metric["pods"]["metric"]["name"] == adapter_rule()["name"]["as"]
    for query in [adapter_query(), *(q for where, q in queries(tmp_path).items() if where.startswith("keda"))]:
        assert "rate(ts_inference_latency_microseconds{" in query and query.endswith("/ 1e6")


def test_keda_and_hpa_agree(tmp_path) -> None:
    hpas = of_kind(build(make_folder(tmp_path)), "HorizontalPodAutoscaler")
    for name, one in scaled_objects(tmp_path).items():
        spec, hpa = one["spec"], hpas[name]["spec"]
        assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (hpa["minReplicas"], hpa["maxReplicas"])
        target = hpa["metrics"][0]["pods"]["target"]["averageValue"]
        assert spec["triggers"][0]["metadata"]["threshold"] == target


def make_folder(tmp_path):
    make(tmp_path / "hpa", ("autoscaling",))
    return tmp_path / "hpa"


def test_every_alert_has_its_place_in_the_runbook() -> None:
    headings = {line.lstrip("# ").strip() for line in RUNBOOK.read_text().splitlines() if line.startswith("#")}
    for one in alerts():
        assert one["alert"] in headings
        assert one["annotations"]["runbook"] == f"docs/runbook.md#{one['alert'].lower()}"


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    for panel in panels():
        assert panel["type"] == "timeseries" and panel["title"] and panel["description"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
    (config,) = [one for one in of_kind(overlay("production"), "ConfigMap").values() if "dashboard.json" in one["data"]]
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
