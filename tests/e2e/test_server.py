"""The server as it is set up: what it refuses, what it reports, what it logs, how it ends."""

import dataclasses
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from lookalike.errors import SetupError
from lookalike.process_table import server_processes
from lookalike.server import ServerProcess, running_server, start_server, stop_server
from lookalike.server_config import ServerFiles, ServerSettings
from tests.e2e.catalogue_drawn import draw
from tests.e2e.surroundings import HIDDEN_SECRET, ROOT, management

MODELS = {"detector", "embedder", "metadata_creator", "search"}


def series(server: ServerProcess, name: str) -> dict[str, float]:
    """Return a metric's values by their labels, Hostname left out."""
    text = httpx.get(server.metrics_url).text
    found = re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
    return {re.sub(r'(^|,)[Hh]ostname="[^"]*",?', "", labels).strip(","): float(value) for labels, value in found}


def worker_environments(server: ServerProcess) -> list[str]:
    workers = [p.pid for p in server_processes(server.run_dir) if p != server.identity]
    return [Path(f"/proc/{pid}/environ").read_text() for pid in workers]


def test_it_is_ready_with_every_model_and_the_index(server):
    reply = httpx.get(f"{server.base_url}/predictions/search/1.0/healthz", timeout=10)
    assert (reply.status_code, reply.json()["ready"]) == (200, True)


def test_its_models_are_those_of_the_store_with_one_worker_each(server):
    status, answer = management(server, "GET", "/models")
    assert status == 200
    assert {model["modelName"] for model in answer["models"]} == MODELS
    assert len(worker_environments(server)) == len(MODELS)


def test_no_model_can_be_registered(server):
    status, _ = management(server, "POST", "/models?url=http://127.0.0.1/evil.mar")
    assert status == 405


@pytest.mark.parametrize("path", ["/models", "/models/search"])
def test_management_is_not_reachable_over_http(server, path):
    assert httpx.get(server.base_url + path).status_code in (404, 405)


def test_a_request_above_the_limit_is_refused_as_too_large(server):
    reply = httpx.post(f"{server.base_url}/predictions/embedder", content=b"x" * 28_000_001, timeout=30)
    assert reply.status_code == 413


def test_secrets_of_the_environment_do_not_reach_workers(server):
    for environment in worker_environments(server):
        assert HIDDEN_SECRET not in environment
        assert "LOOKALIKE_ROUTER_INDEX_POLL_S" in environment


def test_a_router_holds_no_torch(server):
    workers = [p.pid for p in server_processes(server.run_dir) if p != server.identity]
    with_torch = [pid for pid in workers if "libtorch_cpu" in Path(f"/proc/{pid}/maps").read_text()]
    assert with_torch == []


def eventually(read: Callable[[], float], expected: float) -> bool:
    """Metrics reach the server through a pipe, a moment after the reply."""
    deadline_s = time.monotonic() + 5
    while (value := read()) != expected and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return value == expected


def test_a_reply_is_counted_by_endpoint_and_status(server):
    def counted() -> float:
        return series(server, "lookalike_requests_total").get('endpoint="embedder",status="415"', 0)

    before = counted()
    assert httpx.post(f"{server.base_url}/predictions/embedder", content=b"no image", timeout=30).status_code == 415
    assert eventually(counted, before + 1)


def test_a_search_is_timed_by_its_stages_and_tells_the_index_in_use(server):
    def timed() -> float:
        return series(server, "lookalike_stage_seconds_count").get('stage="detect"', 0)

    before = timed()
    picture = io.BytesIO()
    draw("disc", "red").save(picture, "PNG")
    reply = httpx.post(f"{server.base_url}/predictions/search", content=picture.getvalue(), timeout=30)
    assert reply.status_code == 200
    assert eventually(timed, before + 1)
    version = reply.json()["index"]["version"]
    assert eventually(lambda: series(server, "lookalike_index_items").get(f'version="{version}"', 0), 36)


def test_its_log_is_one_json_object_a_line(server):
    lines = server.log_file.read_text().splitlines()
    assert lines
    assert all({"time", "level", "message"} <= json.loads(line).keys() for line in lines)


def test_a_second_start_beside_it_is_refused(server):
    files = dataclasses.replace(ServerFiles.of(ROOT), state=server.state_file.parent)
    with pytest.raises(SetupError, match="already running"):
        start_server({}, files, ServerSettings(port=0, metrics_port=0))


def test_a_taken_port_is_named(server, tmp_path):
    files = dataclasses.replace(ServerFiles.of(ROOT), state=tmp_path)
    port = int(server.base_url.rpartition(":")[2])
    with pytest.raises(SetupError, match=f"127.0.0.1:{port} cannot be used"):
        start_server({}, files, ServerSettings(port=port, metrics_port=0))
    assert running_server(tmp_path) is None


def test_it_is_found_again_by_its_pid_file(server):
    found = running_server(server.state_file.parent)
    assert found is not None
    assert (found.identity, found.base_url) == (server.identity, server.base_url)


def test_stopping_where_nothing_runs_says_so(tmp_path):
    assert stop_server(tmp_path) is False


def test_stopping_by_the_pid_file_ends_jvm_and_workers_and_removes_what_they_left(tmp_path, server):
    # The router alone: it starts without models and without an index, and is stopped by another process's knowledge.
    files = dataclasses.replace(ServerFiles.of(ROOT), state=tmp_path, index_dir=tmp_path / "no-index")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DETECTOR", "EMBEDDER", "METADATA"):
            model = {"METADATA": "metadata_creator"}.get(name, name.lower())
            patch.setenv(f"LOOKALIKE_ROUTER_{name}_URL", f"{server.base_url}/predictions/{model}")
        settings = ServerSettings(port=0, metrics_port=0)
        started = start_server({"search": files.archives / "search.mar"}, files, settings)
    assert len(server_processes(started.run_dir)) == 2
    assert stop_server(tmp_path) is True
    assert server_processes(started.run_dir) == []
    assert not started.run_dir.exists()
    assert not started.state_file.exists()
    assert started.child is not None
    started.child.wait(5)
