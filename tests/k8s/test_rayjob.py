"""The RayJob example: fields of KubeRay, pods by strict schemas, the policy of the overlays, a command that runs."""

import re
import shlex
from importlib.metadata import PackageNotFoundError, version

import kubernetes_validate
import pytest
import typer
import yaml

from lookalike.cli import app
from tests.k8s.manifests import ROOT, Manifest, containers, environment, overlay, pods
from tests.k8s.test_builds import VERSIONS
from tests.k8s.test_policy import VOLUMES

FOLDER = ROOT / "k8s/examples"
# Of ray.io/v1, KubeRay 1.5.1; the schemas of its custom resources are in no package.
JOB = {"submissionMode", "entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished"}
JOB |= {"rayClusterSpec", "activeDeadlineSeconds", "suspend", "runtimeEnvYAML", "submitterPodTemplate"}
CLUSTER = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling"}
GROUP = {"rayStartParams", "template"}
WORKERS = GROUP | {"groupName", "replicas", "minReplicas", "maxReplicas"}


def manifests() -> dict[str, Manifest]:
    found = list(yaml.safe_load_all((FOLDER / "rayjob.yaml").read_text()))
    return {one["kind"]: one for one in found}


def cluster() -> Manifest:
    return manifests()["RayJob"]["spec"]["rayClusterSpec"]


def ray_pods() -> dict[str, Manifest]:
    """Return the pods' templates by the group's name."""
    groups = {group["groupName"]: group["template"] for group in cluster()["workerGroupSpecs"]}
    return {"head": cluster()["headGroupSpec"]["template"], **groups}


def test_the_job_has_kuberays_fields_and_no_others() -> None:
    job = manifests()["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    assert job["spec"].keys() <= JOB and cluster().keys() <= CLUSTER
    assert cluster()["headGroupSpec"].keys() <= GROUP
    for group in cluster()["workerGroupSpecs"]:
        assert group.keys() <= WORKERS and group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert all(isinstance(value, str) for value in cluster()["headGroupSpec"]["rayStartParams"].values())
    assert cluster()["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("kubernetes", VERSIONS)
def test_pods_account_and_policy_are_valid(kubernetes: str) -> None:
    for name, template in ray_pods().items():
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": name, **template["metadata"]}}
        kubernetes_validate.validate(pod, kubernetes, strict=True)
    for kind in ("ServiceAccount", "NetworkPolicy"):
        kubernetes_validate.validate(manifests()[kind], kubernetes, strict=True)


@pytest.mark.parametrize("name", ["head", "prepare", "embed"])
def test_each_pod_meets_the_overlays_policy(name: str) -> None:
    template = ray_pods()[name]
    pod = template["spec"]
    index_build = pods(overlay("production"))["index-build"]
    assert pod["securityContext"] == index_build["securityContext"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("bulk-embed", False)
    assert {key for volume in pod["volumes"] for key in volume.keys() - {"name"}} <= VOLUMES
    assert all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"])
    assert template["metadata"]["labels"]["lookalike/store"] == "wanted"
    for one in containers(pod).values():
        assert one["securityContext"] == containers(index_build)["shard"]["securityContext"]
        assert all({"cpu", "memory"} <= one["resources"][size].keys() for size in ("requests", "limits"))
        assert re.fullmatch(r"[\w./-]+:(?!latest)[\w.-]+", one["image"])
        mounted = {mount["name"] for mount in one["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in pod["volumes"]}


def test_its_ports_are_reached_by_its_own_pods_and_the_operator_alone() -> None:
    policy = manifests()["NetworkPolicy"]["spec"]
    own = policy["podSelector"]["matchLabels"]
    assert all(own.items() <= template["metadata"]["labels"].items() for template in ray_pods().values())
    sources = [rule["from"][0]["podSelector"]["matchLabels"] for rule in policy["ingress"]]
    assert sources == [own, {"app.kubernetes.io/name": "kuberay-operator"}]
    assert [rule["to"][0]["podSelector"]["matchLabels"] for rule in policy["egress"]] == [own]


def test_the_entrypoint_is_a_command_and_its_actors_fit() -> None:
    program, *words = shlex.split(manifests()["RayJob"]["spec"]["entrypoint"])
    assert program == "lookalike"
    command = typer.main.get_command(app).get_command(None, words[0])  # type: ignore[attr-defined, arg-type]
    options = command.make_context("embed", words[1:]).params
    known = environment(containers(ray_pods()["head"]["spec"])["ray-head"])
    assert {options["source"], options["output"]} == {"$LOOKALIKE_BULK_SOURCE", "$LOOKALIKE_BULK_OUTPUT"}
    assert {"LOOKALIKE_BULK_SOURCE", "LOOKALIKE_BULK_OUTPUT"} < known.keys()
    assert known["RAY_USAGE_STATS_ENABLED"] == "0"
    (embed,) = [group for group in cluster()["workerGroupSpecs"] if group["groupName"] == "embed"]
    worker = containers(embed["template"]["spec"])["ray-worker"]["resources"]["limits"]
    assert options["actors"] * options["gpus_per_actor"] == embed["replicas"] * worker["nvidia.com/gpu"]
    assert options["cpus_per_actor"] <= int(worker["cpu"])


def test_the_image_has_the_ray_that_the_job_names_and_the_tests_ran_on() -> None:
    named = cluster()["rayVersion"]
    assert f"'ray[data,default]=={named}'" in (FOLDER / "bulk.Dockerfile").read_text()
    try:
        assert version("ray") == named
    except PackageNotFoundError:
        pytest.skip("Ray is not installed: the extra lookalike[bulk]")
