"""`lookalike preflight`: the real kubectl asks an API server that answers as a cluster would, and one that does not."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lookalike.cli import app
from lookalike.errors import SetupError
from lookalike.preflight import Cluster, overlay_for
from lookalike.server_config import free_ports
from tests.k8s.manifests import OVERLAYS

GPU_NODE = {"nvidia.com/gpu.present": "true"}


def node(name: str, gpus: int = 0, labels: dict[str, str] | None = None) -> dict[str, object]:
    allocatable = {"cpu": "8"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    return {"metadata": {"name": name, "labels": labels or {}}, "status": {"allocatable": allocatable}}


def a_list(kind: str, version: str, items: list[dict[str, object]]) -> dict[str, object]:
    return {"kind": f"{kind}List", "apiVersion": version, "metadata": {}, "items": items}


class Api:
    """The answers of a Kubernetes API, as its reference describes them, to what kubectl asks."""

    def __init__(self) -> None:
        self.version, self.groups = "v1.33.2", ["storage.k8s.io"]
        self.nodes = [node("a")]
        self.storage: list[dict[str, object]] = []
        self.namespace: dict[str, object] | None = None

    def answer(self, path: str) -> dict[str, object] | None:
        gv = [{"groupVersion": f"{name}/v1", "version": "v1"} for name in self.groups]
        groups = [
            {"name": name, "versions": [one], "preferredVersion": one}
            for name, one in zip(self.groups, gv, strict=True)
        ]
        return {
            "/version": {"major": "1", "minor": self.version.split(".")[1], "gitVersion": self.version},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
            "/api/v1": self._resources("v1", {"nodes": "Node", "namespaces": "Namespace"}),
            "/apis/storage.k8s.io/v1": self._resources("storage.k8s.io/v1", {"storageclasses": "StorageClass"}),
            "/api/v1/nodes": a_list("Node", "v1", self.nodes),
            "/api/v1/namespaces/lookalike": self.namespace,
            "/apis/storage.k8s.io/v1/storageclasses": a_list("StorageClass", "storage.k8s.io/v1", self.storage),
        }.get(path)

    def _resources(self, version: str, kinds: dict[str, str]) -> dict[str, object]:
        named = [
            {"name": name, "singularName": kind.lower(), "namespaced": False, "kind": kind, "verbs": ["get", "list"]}
            for name, kind in kinds.items()
        ]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": named}


def kubeconfig(folder: Path, port: int) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "t",
        "clusters": [{"name": "t", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "t", "user": {}}],
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(config))
    return folder / "kubeconfig"


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    kept = Api()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = kept.answer(self.path.partition("?")[0])
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(answer or missing).encode()
            self.send_response(200 if answer else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, server.server_port)))
        monkeypatch.setenv("HOME", str(tmp_path))  # kubectl caches what a server offers
        yield kept
        server.shutdown()
        thread.join()


@pytest.fixture
def run() -> Callable[[], tuple[int, str]]:
    def once() -> tuple[int, str]:
        done = CliRunner().invoke(app, ["preflight"])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    return once


def test_one_small_node_gets_local_and_is_told_what_is_optional(api, run) -> None:
    code, told = run()
    assert code == 0 and "k8s/overlays/local\n" in told
    for missing in ("custom.metrics.k8s.io", "keda.sh", "monitoring.coreos.com", "no default storage class"):
        assert missing in told


def test_one_gpu_is_saved_from_the_deadlock(api, run) -> None:
    api.nodes = [node("a", 1, GPU_NODE)]
    code, told = run()
    assert code == 0 and "would wait for 4 for ever" in told and "overlays/single-gpu" in told


def test_what_is_there_is_seen(api, run) -> None:
    api.nodes = [node(name, 4, GPU_NODE) for name in "ab"]
    api.groups += ["custom.metrics.k8s.io", "monitoring.coreos.com"]
    marked = {"storageclass.kubernetes.io/is-default-class": "true"}
    api.storage = [{"metadata": {"name": "fast", "annotations": marked}}]
    label = {"pod-security.kubernetes.io/enforce": "baseline"}
    api.namespace = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "lookalike", "labels": label}}
    code, told = run()
    assert code == 0 and "overlays/production\n" in told and "8 GPUs" in told
    assert "storage class fast" in told and "ok    custom.metrics.k8s.io" in told and "security baseline" in told


def test_an_old_version_or_a_missing_label_cannot_work(api, run) -> None:
    api.version, api.nodes = "v1.29.4", [node("a", 1)]
    code, told = run()
    assert code == 1 and "1.30 or newer" in told and "label the GPU nodes" in told


def test_a_cluster_that_does_not_answer_is_told_in_kubectls_words(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, free_ports("127.0.0.1", 1)[0])))
    done = CliRunner().invoke(app, ["preflight"])
    assert isinstance(done.exception, SetupError) and "refused" in done.exception.message


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 0), (3, 0), (1, 1), (2, 3), (1, 8), (2, 4)])
def test_every_overlay_that_is_named_exists(nodes: int, gpus: int) -> None:
    cluster = Cluster("v1.33.0", [node("a", gpus), *(node("b") for _ in range(nodes - 1))])
    assert overlay_for(cluster) in OVERLAYS
