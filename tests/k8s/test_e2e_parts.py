"""The parts of `make k8s-e2e` that need no cluster: the load counts failures, pods are allowed, no cluster is said."""

import http.server
import io
import json
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest

from k8s.e2e.__main__ import helper_pod, packed
from lookalike.server_config import free_ports
from tests.k8s.manifests import ROOT
from tests.k8s.test_preflight import kubeconfig


class Searches(http.server.BaseHTTPRequestHandler):
    """Answers as a router does, and fails every tenth search."""

    count = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).count += 1
        body = json.dumps({"index": {"version": "000001-abcdef01"}}).encode()
        self.send_response(503 if type(self).count % 10 == 0 else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Searches) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/predictions/search"
        server.shutdown()
        thread.join()


def test_the_load_counts_searches_failures_and_versions(url: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"photo")
    command = [sys.executable, str(ROOT / "k8s/e2e/load.py"), url, str(tmp_path / "photo.jpg"), "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as load:
        time.sleep(2)
        load.send_signal(signal.SIGTERM)
        told = json.loads(load.communicate(timeout=20)[0])
    assert told["searches"] == Searches.count > 20
    assert len(told["failures"]) == Searches.count // 10 and "503" in told["failures"][0]
    assert told["versions"] == ["000001-abcdef01"]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_helper_pods_are_valid_and_restricted(version: str) -> None:
    pod = helper_pod("load", "lookalike:local", ["python"], {"load": {"configMap": {"name": "load"}}})
    kubernetes_validate.validate(pod, version, strict=True)
    assert pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False


def test_a_version_is_named_after_its_files_have_come(tmp_path: Path) -> None:
    (tmp_path / "CURRENT").write_text("000001")
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions/a").write_text("a")
    with tarfile.open(fileobj=io.BytesIO(packed({"index": tmp_path}))) as tar:
        assert tar.getnames() == ["index/versions/a", "index/CURRENT"]


def test_no_cluster_is_one_clear_line(tmp_path: Path) -> None:
    port = free_ports("127.0.0.1", 1)[0]
    environment = {"KUBECONFIG": str(kubeconfig(tmp_path, port)), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "k8s.e2e", "--models=m", "--index=i", "--next-index=j", "--photo=p"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("e2e: ") and "refused" in done.stderr
