"""What kubectl's kustomize makes of a folder, and the parts of it that the rules look at."""

import copy
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
KUBECTL = Path(sys.executable).parent / "kubectl"
OVERLAYS = sorted(path.name for path in (ROOT / "k8s/overlays").iterdir())
COMPONENTS = sorted(path.name for path in (ROOT / "k8s/components").iterdir())

Manifest = dict[str, Any]


@cache
def _built(folder: Path) -> str:
    """Return the YAML of a kustomization; kubectl's own words are the error."""
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def _parsed(folder: Path) -> list[Manifest]:
    return list(yaml.load_all(_built(folder), Loader=yaml.CSafeLoader))


def build(folder: Path) -> list[Manifest]:
    """Return the manifests of a kustomization."""
    return copy.deepcopy(_parsed(folder))


def overlay(name: str) -> list[Manifest]:
    """Return the manifests of an overlay."""
    return build(ROOT / "k8s/overlays" / name)


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Return the manifests of one kind, by name."""
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return the pods that all workloads make, by the workload's name."""
    made = {name: one["spec"]["template"]["spec"] for name, one in of_kind(manifests, "Deployment").items()}
    jobs = {name: one["spec"]["jobTemplate"]["spec"] for name, one in of_kind(manifests, "CronJob").items()}
    found = made | {name: job["template"]["spec"] for name, job in jobs.items()}
    assert "router" in found  # a rule that looks at no pod would hold for anything
    return found


def pod_labels(manifests: list[Manifest], workload: str) -> dict[str, str]:
    """Return the labels of the pods that a workload makes."""
    jobs = {name: one["spec"]["jobTemplate"] for name, one in of_kind(manifests, "CronJob").items()}
    one = (of_kind(manifests, "Deployment") | jobs)[workload]
    return one["spec"]["template"]["metadata"]["labels"]


def containers(pod: Manifest) -> dict[str, Manifest]:
    """Return every container of a pod by name, those that run before it too."""
    return {one["name"]: one for one in [*pod.get("initContainers", []), *pod["containers"]]}


def server(pod: Manifest) -> Manifest:
    """Return the container that is TorchServe."""
    return containers(pod)["server"]


def environment(container: Manifest) -> dict[str, Any]:
    """Return a container's variables: the value, or where it comes from."""
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container.get("env", [])}
