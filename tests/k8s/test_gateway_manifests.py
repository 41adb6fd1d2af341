"""The gateway's manifests: it alone is reached from outside, it asks routers alone, and its keys must be there."""

import json

import pytest

from lookalike.config import RouterSettings
from lookalike.gateway.settings import GatewaySettings
from tests.k8s.manifests import Manifest, containers, environment, of_kind, overlay, pods
from tests.k8s.test_builds import make

with_gateway = pytest.mark.parametrize("name", ["single-gpu", "staging", "production", "production-cpu"])


def gateway(name: str) -> Manifest:
    return containers(pods(overlay(name))["gateway"])["gateway"]


def settings(name: str, monkeypatch: pytest.MonkeyPatch) -> GatewaySettings:
    """Return what the program makes of the manifest's variables, with a key as `lookalike keys new` prints it."""
    given = environment(gateway(name)) | {"LOOKALIKE_GATEWAY_KEYS": json.dumps([f"shop:read:{'0' * 64}"])}
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    return GatewaySettings.load({})


@with_gateway
def test_every_path_from_outside_leads_to_the_gateway(name: str) -> None:
    (ingress,) = of_kind(overlay(name), "Ingress").values()
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (path["path"], path["backend"]["service"]) == ("/", {"name": "gateway", "port": {"name": "http"}})
    (port,) = of_kind(overlay(name), "Service")["gateway"]["spec"]["ports"]
    assert (port["name"], port["port"]) == ("http", GatewaySettings().port)


@with_gateway
def test_routers_answer_the_gateway_and_no_ingress_controller(name: str) -> None:
    policies = of_kind(overlay(name), "NetworkPolicy")
    (rule,) = policies["router"]["spec"]["ingress"]
    assert {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "gateway"}}} in rule["from"]
    assert not any("namespaceSelector" in one for one in rule["from"])
    (egress,) = policies["gateway"]["spec"]["egress"]
    assert egress["to"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "router"}}}]


@with_gateway
def test_keys_come_from_a_secret_that_must_be_there(name: str) -> None:
    source = environment(gateway(name))["LOOKALIKE_GATEWAY_KEYS"]["secretKeyRef"]
    assert source == {"name": "lookalike-gateway", "key": "keys"}


@with_gateway
def test_the_program_reads_the_manifest_as_it_is_meant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings(name, monkeypatch)
    assert read.host == "0.0.0.0" and not read.keep_connections and len(read.keys) == 1
    (ingress,) = of_kind(overlay(name), "Ingress").values()
    patience_s = int(ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"])
    assert RouterSettings().deadline_ms < read.deadline_ms < 1000 * patience_s
    host, port = read.upstream_url.removeprefix("http://").split(":")
    assert int(port) in {one["port"] for one in of_kind(overlay(name), "Service")[host]["spec"]["ports"]}


@with_gateway
def test_a_roll_needs_a_router_but_readiness_does_not(name: str) -> None:
    one = gateway(name)
    paths = [one[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")]
    assert paths == ["/healthz", "/livez", "/livez"]


@with_gateway
def test_a_pod_ends_no_sooner_than_its_uploads(name: str) -> None:
    pod = pods(overlay(name))["gateway"]
    pause_s = gateway(name)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause_s + GatewaySettings().drain_s


@pytest.mark.parametrize("name", ["staging", "production", "production-cpu"])
def test_thumbnails_read_the_index_and_the_catalogue_and_change_neither(name: str) -> None:
    one, variables = gateway(name), environment(gateway(name))
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in one["volumeMounts"]}
    assert mounts[variables["LOOKALIKE_GATEWAY_INDEX_DIR"]] is True
    (root,) = json.loads(variables["LOOKALIKE_GATEWAY_CATALOGUE_ROOTS"])
    assert mounts[root] is True
    # A thumbnail's file is where the index build read it.
    build = containers(pods(overlay(name))["index-build"])["shard"]
    assert environment(build)["LOOKALIKE_INDEX_SOURCE"] == root


def test_without_a_gateway_the_ingress_leads_to_the_search_alone(tmp_path) -> None:
    (ingress,) = of_kind(make(tmp_path / "plain", ("ingress",)), "Ingress").values()
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert (path["path"], path["backend"]["service"]["name"]) == ("/predictions/search", "router")
