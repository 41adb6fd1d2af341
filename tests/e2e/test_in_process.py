"""A router that holds the models itself: the same answers, and no model server beside it."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lookalike.archives import ArchiveSources, build_archives
from lookalike.process_table import server_processes
from lookalike.runtimes import available_cores, gpu_is_there
from lookalike.schemas import SearchResponse
from lookalike.server import ServerProcess, start_server
from lookalike.server_config import ServerFiles, ServerSettings
from tests.e2e.catalogue_drawn import draw, encoded
from tests.e2e.surroundings import ROOT


@pytest.fixture(scope="module")
def alone(server: ServerProcess, index_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the router alone."""
    files = dataclasses.replace(ServerFiles.of(ROOT), index_dir=index_dir, state=tmp_path_factory.mktemp("alone"))
    router = {"search": build_archives(ArchiveSources.of(ROOT), files.archives)["search"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOKALIKE_ROUTER_MODELS", "in_process")
        with start_server(router, files, ServerSettings(port=0, metrics_port=0)) as running:
            yield running


def searched(server: ServerProcess, picture: bytes) -> SearchResponse:
    reply = httpx.post(f"{server.base_url}/predictions/search", content=picture, timeout=30)
    assert reply.status_code == 200, reply.text
    return SearchResponse.model_validate_json(reply.content)


@pytest.mark.parametrize("shape", ["ring", "disc"])
def test_it_answers_as_the_router_with_model_servers_does(server, alone, shape):
    picture = encoded(draw(shape, "red", seed=5))
    expected, found = searched(server, picture), searched(alone, picture)
    assert [hit.item_id for hit in found.hits] == [hit.item_id for hit in expected.hits]
    assert [hit.similarity for hit in found.hits] == pytest.approx([hit.similarity for hit in expected.hits], abs=1e-5)
    assert found.subject.box == pytest.approx(expected.subject.box, abs=0.01)
    assert [(a.label, a.sure) for a in found.attributes] == [(a.label, a.sure) for a in expected.attributes]


def test_it_is_ready_by_itself(alone):
    reply = httpx.get(f"{alone.base_url}/predictions/search/1.0/healthz", timeout=10)
    assert (reply.status_code, reply.json()["ready"]) == (200, True)
    assert set(reply.json()["checks"]) == {"index", "detector", "embedder", "metadata_creator", "search"}


def test_a_bad_image_is_refused_the_same_way(server, alone):
    replies = [httpx.post(f"{s.base_url}/predictions/search", content=b"no image", timeout=30) for s in (server, alone)]
    first, second = ((r.status_code, r.json()["error"]["code"]) for r in replies)
    assert first == second == (415, "unsupported_image")


def router_of(server: ServerProcess) -> dict[str, Any]:
    """Return what TorchServe says of the router."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(server.management_socket))) as management:
        (told,) = management.get("http://management/models/search").json()
    return dict(told)


def shape_of_router(server: ServerProcess) -> dict[str, object]:
    told = router_of(server)
    return {key: told[key] for key in ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout")}


def test_its_workers_take_one_search_each_and_a_router_that_waits_for_models_many(server, alone):
    workers = min(available_cores(), 8)
    common = {"maxBatchDelay": 1, "responseTimeout": 30}
    assert shape_of_router(alone) == {"minWorkers": workers, "maxWorkers": workers, "batchSize": 1, **common}
    assert shape_of_router(server) == {"minWorkers": 1, "maxWorkers": 1, "batchSize": 8, **common}
    assert "Invalid model config" not in alone.log_file.read_text()


@pytest.mark.skipif(gpu_is_there(), reason="torch is asked for a GPU")
def test_without_a_gpu_its_workers_hold_no_torch(alone):
    workers = [process.pid for process in server_processes(alone.run_dir) if process != alone.identity]
    assert [pid for pid in workers if "libtorch" in Path(f"/proc/{pid}/maps").read_text()] == []


def wait_until(true: Callable[[], bool], limit_s: float = 60) -> None:
    end_s = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.1)


def test_searches_go_on_while_a_killed_worker_is_started_again(alone):
    def ready() -> set[int]:
        return {worker["pid"] for worker in router_of(alone)["workers"] if worker["status"] == "READY"}

    before = ready()
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in ready())
    assert len(searched(alone, encoded(draw("ring", "red", seed=5))).hits) == 10
    wait_until(lambda: len(ready() - {killed}) == len(before))
