"""One command turns a trained task into an endpoint of a real server."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from lookalike.gateway.process import running_gateway, stop_gateway
from lookalike.labels.folders import load_embedder, trained_dir
from lookalike.labels.task import read_task
from lookalike.server import running_server, stop_server
from tests.label_samples import write_task
from training.labels.train import train_task, write_trained

ROOT = Path(__file__).parents[2]
LOOKALIKE = Path(sys.executable).with_name("lookalike")
EMBEDDER = ROOT / "var/models/embedder"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project of its own with the built models of this one, and a trained task `colours`."""
    if not (EMBEDDER / "model.json").exists():
        pytest.fail(f"{EMBEDDER} is not built: run `make models`")
    for name in ("SERVER_PORT", "SERVER_METRICS_PORT", "GATEWAY_PORT"):
        monkeypatch.setenv(f"LOOKALIKE_{name}", "0")
    root = tmp_path / "project"
    (root / "var/models").mkdir(parents=True)
    for name in ("model_store", "handlers", "docker"):
        (root / name).symlink_to(ROOT / name)
    for model in ("detector", "embedder", "metadata_creator"):
        (root / "var/models" / model).symlink_to(ROOT / "var/models" / model)
    task = read_task(write_task(tmp_path))
    write_trained(train_task(task, load_embedder(EMBEDDER, threads=1), None), task, trained_dir(root, "colours"))
    return root


def test_a_trained_task_is_served_by_one_command_and_again_after_a_restart(project, tmp_path):
    try:
        for _ in range(2):
            subprocess.run([LOOKALIKE, "labels", "serve", "colours", "--root", project], check=True, timeout=300)
            server = running_server(project / "var")
            assert server is not None
            image = (tmp_path / "imgroot/blue/0.png").read_bytes()
            request = urllib.request.Request(
                f"{server.base_url}/predictions/colours", data=image, headers={"content-type": "image/png"}
            )
            with urllib.request.urlopen(request, timeout=60) as reply:
                answer = json.loads(reply.read())
            assert answer["label"] == "blue"
        subprocess.run([LOOKALIKE, "web", "--root", project, "--background"], check=True, timeout=60)
        gateway = running_gateway(project / "var")
        assert gateway is not None
        with urllib.request.urlopen(f"{gateway.base_url}/openapi.json", timeout=60) as reply:
            operation = json.loads(reply.read())["paths"]["/predictions/colours"]["post"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema["properties"]["label"]["enum"] == ["red", "blue"]
        subprocess.run([LOOKALIKE, "stop", "--root", project], check=True, timeout=60)
        assert running_gateway(project / "var") is None
    finally:
        stop_gateway(project / "var")
        stop_server(project / "var")
