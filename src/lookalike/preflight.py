"""Looks at a cluster through kubectl, says what is missing for Lookalike, and names the overlay to apply."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import typer

from lookalike.errors import SetupError

OLDEST = (1, 30)  # native preStop sleep and sidecars
GPU = "nvidia.com/gpu"
# Detector and embedder, two pods each.
GPUS_OF_PRODUCTION = 4
Json = dict[str, Any]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    state: Literal["ok", "note", "wrong"]
    text: str


@dataclass
class Cluster:
    """What kubectl said of a cluster."""

    version: str
    nodes: list[Json] = field(default_factory=list)
    api_groups: set[str] = field(default_factory=set)
    storage_classes: list[Json] = field(default_factory=list)
    namespace: Json | None = None

    @property
    def gpus(self) -> int:
        """The GPUs that pods may ask for."""
        return sum(int(node["status"].get("allocatable", {}).get(GPU, 0)) for node in self.nodes)


def look(kubectl: str, context: str | None) -> Cluster:
    """Ask the cluster of the kubeconfig.

    Raises:
        SetupError: with kubectl's own words when the cluster does not answer or forbids a question.
    """

    def ask(*what: str) -> str:
        chosen = ["--context", context] if context else []
        done = subprocess.run([kubectl, *chosen, "--request-timeout=10s", *what], capture_output=True, text=True)
        if done.returncode:
            raise SetupError(f"kubectl {' '.join(what)}: {last_line(done.stderr)}", allowed="a kubeconfig that works")
        return done.stdout

    def items(kind: str) -> list[Json]:
        return list(json.loads(ask("get", kind, "-o", "json"))["items"])

    version = json.loads(ask("version", "-o", "json"))["serverVersion"]["gitVersion"]
    groups = {line.partition("/")[0] for line in ask("api-versions").splitlines()}
    namespace = ask("get", "namespace", "lookalike", "--ignore-not-found", "-o", "json")
    found = json.loads(namespace) if namespace.strip() else None
    return Cluster(version, items("nodes"), groups, items("storageclasses"), found)


def last_line(text: str) -> str:
    """Return the last line that says something."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no answer")


def overlay_for(cluster: Cluster) -> str:
    """Return the overlay that fits the cluster's GPUs and nodes."""
    if cluster.gpus >= GPUS_OF_PRODUCTION:
        return "production" if len(cluster.nodes) > 1 else "staging"
    if cluster.gpus:
        return "single-gpu"
    return "production-cpu" if len(cluster.nodes) > 1 else "local"


def findings(cluster: Cluster) -> Iterable[Finding]:
    """Yield what was looked at, in the order of a deployment."""
    yield _version(cluster.version)
    yield from _gpus(cluster)
    yield from _groups(cluster)
    yield _storage(cluster)
    yield _pod_security(cluster.namespace)


def _version(version: str) -> Finding:
    found = re.match(r"v?(\d+)\.(\d+)", version)
    old = found is None or (int(found[1]), int(found[2])) < OLDEST
    return Finding("wrong" if old else "ok", f"Kubernetes {version}" + (": 1.30 or newer is needed" if old else ""))


def _gpus(cluster: Cluster) -> Iterable[Finding]:
    yield Finding("ok", f"{len(cluster.nodes)} nodes, {cluster.gpus} GPUs")
    labelled = [node for node in cluster.nodes if node["metadata"].get("labels", {}).get(f"{GPU}.present") == "true"]
    if cluster.gpus and not labelled:
        yield Finding("wrong", f"no node has the label {GPU}.present=true that GPU pods ask for: label the GPU nodes")
    if not cluster.gpus and labelled:
        yield Finding("wrong", "nodes have GPUs, but no device plugin offers them to pods")
    if 0 < cluster.gpus < GPUS_OF_PRODUCTION:
        told = f"{cluster.gpus} GPUs: staging and production would wait for {GPUS_OF_PRODUCTION} for ever"
        yield Finding("note", f"{told}; single-gpu uses one and rolls without a second; time-slicing offers more")


def _groups(cluster: Cluster) -> Iterable[Finding]:
    optional = {
        "custom.metrics.k8s.io": "the component autoscaling needs prometheus-adapter (or use autoscaling-keda)",
        "keda.sh": "the component autoscaling-keda needs KEDA (or use autoscaling)",
        "monitoring.coreos.com": "the component monitoring needs the Prometheus Operator; without it, apply fails",
    }
    for group, otherwise in optional.items():
        there = group in cluster.api_groups
        yield Finding("ok" if there else "note", group if there else f"no {group}: {otherwise}")


def _storage(cluster: Cluster) -> Finding:
    key = "storageclass.kubernetes.io/is-default-class"
    marked = [one["metadata"] for one in cluster.storage_classes]
    defaults = [one["name"] for one in marked if one.get("annotations", {}).get(key) == "true"]
    if defaults:
        return Finding("ok", f"default storage class {defaults[0]}")
    return Finding("note", "no default storage class: local, and the catalogue's claim, need one named")


def _pod_security(namespace: Json | None) -> Finding:
    if namespace is None:
        return Finding("ok", "no namespace lookalike yet: the overlay makes it, restricted")
    level = namespace["metadata"].get("labels", {}).get("pod-security.kubernetes.io/enforce", "not set")
    return Finding("ok" if level == "restricted" else "note", f"namespace lookalike: pod security {level}")


def preflight(context: str | None = None) -> None:
    """Look at the cluster of the kubeconfig, read only, and name the overlay; exit code 1 if it cannot work."""
    beside = Path(sys.executable).parent / "kubectl"
    kubectl = str(beside) if beside.exists() else shutil.which("kubectl")
    if kubectl is None:
        raise SetupError("kubectl is not installed", allowed="kubectl on PATH")
    cluster = look(kubectl, context)
    found = list(findings(cluster))
    for one in found:
        typer.echo(f"{one.state:5} {one.text}")
    typer.echo(f"apply: kubectl apply -k k8s/overlays/{overlay_for(cluster)}")
    raise typer.Exit(1 if any(one.state == "wrong" for one in found) else 0)
