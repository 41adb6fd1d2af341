"""The rules that every overlay keeps: security, probes, drains, disruption, sizes, networks, GPUs."""

import re
from itertools import chain

import pytest

from lookalike.config import RouterSettings, Settings
from lookalike.gateway.settings import GatewaySettings
from lookalike.server_config import ServerSettings
from tests.k8s.manifests import (
    OVERLAYS,
    Manifest,
    containers,
    environment,
    of_kind,
    overlay,
    pod_labels,
    pods,
    server,
)

DEADLINE_S = RouterSettings.model_fields["deadline_ms"].default / 1000
# CoreDNS and NodeLocal DNSCache may hold an address for that long.
DNS_CACHE_S = 30
# All that `restricted` allows; hostPath, above all, is not among them.
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}

every_overlay = pytest.mark.parametrize("name", OVERLAYS)
on_gpus = pytest.mark.parametrize("name", ["staging", "production", "single-gpu"])


def deployments(name: str) -> dict[str, Manifest]:
    return of_kind(overlay(name), "Deployment")


def servers(name: str) -> dict[str, Manifest]:
    """Return the workloads that are TorchServe."""
    found = {workload: one for workload, one in deployments(name).items() if workload != "gateway"}
    assert "router" in found
    return found


def main_container(deployment: Manifest) -> Manifest:
    (one,) = deployment["spec"]["template"]["spec"]["containers"]
    return one


@every_overlay
def test_every_object_lies_in_the_one_namespace(name: str) -> None:
    # Also where a component added it: kubectl would put it into the namespace of the user's kubeconfig.
    strays = [one["kind"] for one in overlay(name) if one["metadata"].get("namespace") != "lookalike"]
    assert strays == ["Namespace"]


@every_overlay
def test_the_namespace_enforces_the_restricted_standard_and_every_pod_meets_it(name: str) -> None:
    (namespace,) = of_kind(overlay(name), "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(overlay(name)).values():
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] == 10001
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert {key for volume in pod["volumes"] for key in volume.keys() - {"name"}} <= VOLUMES
        for container in containers(pod).values():
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }


@every_overlay
def test_no_pod_gets_a_token_and_each_workload_has_an_account_of_its_own(name: str) -> None:
    accounts = of_kind(overlay(name), "ServiceAccount")
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())
    for workload, pod in pods(overlay(name)).items():
        assert pod["automountServiceAccountToken"] is False
        assert pod["serviceAccountName"] == workload and workload in accounts


@every_overlay
def test_store_keys_never_reach_what_serves(name: str) -> None:
    for deployment in deployments(name).values():
        assert "envFrom" not in main_container(deployment)


@every_overlay
def test_who_copies_from_the_store_gets_there_and_nobody_else(name: str) -> None:
    manifests = overlay(name)
    selector = of_kind(manifests, "NetworkPolicy")["store"]["spec"]["podSelector"]["matchLabels"]
    assert selector == {"lookalike/store": "wanted"}
    for workload, pod in pods(manifests).items():
        copies = any("envFrom" in container for container in containers(pod).values())
        assert (pod_labels(manifests, workload).get("lookalike/store") == "wanted") == copies, workload


@every_overlay
def test_every_container_says_what_it_needs_and_no_image_floats(name: str) -> None:
    for pod in pods(overlay(name)).values():
        for container in containers(pod).values():
            for size in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][size].keys()
            assert re.fullmatch(r"[\w./-]+(:(?!latest)[\w.-]+|@sha256:[0-9a-f]{64})", container["image"])
        assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume)


@every_overlay
def test_probes_start_patiently_ask_through_the_chain_and_end_only_a_dead_server(name: str) -> None:
    for deployment in servers(name).values():
        one = server(deployment["spec"]["template"]["spec"])
        startup, ready, live = (one[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
        assert startup["httpGet"]["path"] == ready["httpGet"]["path"]
        assert re.fullmatch(r"/predictions/\w+/1\.0/healthz", ready["httpGet"]["path"])
        assert live["httpGet"]["path"] == "/ping"
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 2 * ServerSettings().ready_s
        assert live["periodSeconds"] * live["failureThreshold"] >= 120
        assert ready["timeoutSeconds"] > DEADLINE_S
        assert {probe["httpGet"]["port"] for probe in (startup, ready, live)} == {"http"}


@every_overlay
def test_a_pod_drains_for_longer_than_a_search_may_take(name: str) -> None:
    for workload, deployment in deployments(name).items():
        pod = deployment["spec"]["template"]["spec"]
        pause = main_container(deployment)["lifecycle"]["preStop"]["sleep"]["seconds"]
        reached_by_dns = workload not in ("router", "gateway")
        assert pause > DEADLINE_S + (DNS_CACHE_S if reached_by_dns else 0)
        assert pod["terminationGracePeriodSeconds"] >= pause + 15


@every_overlay
def test_a_disruption_budget_covers_each_workload_and_never_blocks_a_drain(name: str) -> None:
    budgets = of_kind(overlay(name), "PodDisruptionBudget")
    assert budgets.keys() == deployments(name).keys()
    for workload, deployment in deployments(name).items():
        spec = budgets[workload]["spec"]
        assert spec["selector"] == deployment["spec"]["selector"]
        assert (spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")


@every_overlay
def test_nothing_is_reached_unless_a_policy_names_it(name: str) -> None:
    policies = of_kind(overlay(name), "NetworkPolicy")
    deny = policies.pop("default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    rules = chain.from_iterable(one["spec"].get(way, []) for one in policies.values() for way in ("ingress", "egress"))
    for rule in rules:
        assert rule["ports"] and (rule.get("from") or rule.get("to"))
    blocks = [block for rule in policies["store"]["spec"]["egress"] for block in rule["to"]]
    # Clouds hand out credentials there.
    assert all("169.254.0.0/16" in block["ipBlock"]["except"] for block in blocks)


@every_overlay
def test_every_variable_is_a_setting_that_the_program_knows(name: str) -> None:
    known = {
        f"{settings.model_config['env_prefix']}{field.upper()}"
        for settings in {GatewaySettings, *Settings.__subclasses__()}  # as far as they are imported
        for field in settings.model_fields
    }
    for deployment in deployments(name).values():
        named = environment(main_container(deployment))
        assert {variable for variable in named if variable.startswith("LOOKALIKE_")} <= known


@every_overlay
def test_routers_reach_models_through_headless_services_that_exist(name: str) -> None:
    services = of_kind(overlay(name), "Service")
    services.pop("gateway", None)
    urls = [url for key, url in environment(server(pods(overlay(name))["router"])).items() if key.endswith("_URL")]
    assert len(urls) == len(services) - 1
    for url in urls:
        host, port = re.fullmatch(r"http://(\w+):(\d+)/predictions/\w+", str(url)).groups()
        assert services[host]["spec"]["clusterIP"] == "None"
        assert int(port) in {one["port"] for one in services[host]["spec"]["ports"]}


@every_overlay
def test_the_index_is_pulled_after_the_models_and_then_followed(name: str) -> None:
    names = [one["name"] for one in pods(overlay(name))["router"]["initContainers"]]
    assert names == ["pull-models", "pull-index", "follow-index"]
    sidecar = containers(pods(overlay(name))["router"])["follow-index"]
    assert sidecar["restartPolicy"] == "Always"


@on_gpus
def test_a_roll_never_waits_for_a_gpu_that_is_in_use(name: str) -> None:
    found = 0
    for deployment in servers(name).values():
        pod = deployment["spec"]["template"]["spec"]
        if "nvidia.com/gpu" not in server(pod)["resources"]["limits"]:
            continue
        found += 1
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
        assert server(pod)["resources"]["requests"]["nvidia.com/gpu"] == 1
        assert any(one["key"] == "nvidia.com/gpu" for one in pod["tolerations"])
        assert "nodeAffinity" in pod["affinity"] and pod["topologySpreadConstraints"]
        assert environment(server(pod))["LOOKALIKE_MODEL_DEVICE"] == "cuda"
    assert found == (1 if name == "single-gpu" else 2)


def test_one_gpu_is_enough_for_single_gpu() -> None:
    (router,) = servers("single-gpu").values()
    assert router["spec"]["replicas"] == 1


@pytest.mark.parametrize("name", ["local", "staging", "production", "production-cpu"])
def test_a_pod_may_go_without_an_outage(name: str) -> None:
    scaled = of_kind(overlay(name), "HorizontalPodAutoscaler")
    for workload, deployment in deployments(name).items():
        autoscaler = scaled.get(workload)
        least = autoscaler["spec"]["minReplicas"] if autoscaler else deployment["spec"]["replicas"]
        assert least >= 2
        # The autoscaler's number and one of the manifest would fight at every apply.
        assert ("replicas" in deployment["spec"]) != bool(autoscaler)
