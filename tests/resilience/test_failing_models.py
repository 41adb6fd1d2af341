"""Slow, dead and wrong model servers: deadlines hold, retries are bounded, circuits open, no answer lies."""

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lookalike import rows as wire
from lookalike.rows import Reply, Row
from lookalike.search_service import SearchService
from tests.colour_embedder import save_picture
from tests.resilience.failing_servers import (
    FAULTS,
    Answer,
    ModelServers,
    answers_500,
    hangs_up,
    index_of_colours,
    model_servers,
    never,
    router,
)
from tests.resilience.promises import Promise

STAGE_MS = {"detect_ms": 500, "embed_ms": 500, "describe_ms": 500}
SLACK_MS = 500  # for two cores that do other things as well
NEEDED = ("detect", "embed")


@pytest.fixture(scope="module")
def index_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return index_of_colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save_picture(tmp_path_factory.mktemp("query") / "7.png", 7).read_bytes()


@pytest.fixture
def servers() -> Iterator[ModelServers]:
    with model_servers() as servers:
        yield servers


class Told(NamedTuple):
    reply: Reply
    body: dict[str, Any]
    ms: float


def search(service: SearchService, picture: bytes, **headers: str) -> Told:
    start_s = time.perf_counter()
    (reply,) = service.respond([Row("r", headers=headers, body=picture)])
    return Told(reply, json.loads(reply.body), (time.perf_counter() - start_s) * 1000)


def hit_ids(told: Told) -> list[str]:
    return [hit["item_id"] for hit in told.body["hits"]]


def test_a_search_ends_in_time_and_names_the_stage_whatever_a_model_server_does(
    servers: ModelServers, index_dir: Path, picture: bytes, promise: Promise
) -> None:
    slowest_ms, most_calls = 0.0, 0
    with router(servers, index_dir, circuit_failures=0, **STAGE_MS) as service:
        assert hit_ids(search(service, picture))[0] == "item-7"  # and the cards are known
        for stage in NEEDED:
            server = servers.of(stage)
            for server.fault in FAULTS:
                server.calls = 0
                told = search(service, picture)
                assert (told.reply.status, "hits" in told.body) in [(503, False), (504, False)], server.fault
                assert stage in told.body["error"]["message"]
                assert "secret" not in told.body["error"]["message"]
                slowest_ms, most_calls = max(slowest_ms, told.ms), max(most_calls, server.calls)
            server.fault = None
    promise("failing_model.slowest_answer", slowest_ms, "ms", at_most=500 + SLACK_MS)
    promise("failing_model.calls_a_search", most_calls, "calls", at_most=2)


def test_a_clients_own_deadline_ends_a_search_whatever_a_model_server_does(
    servers: ModelServers, index_dir: Path, picture: bytes, promise: Promise
) -> None:
    late_ms = 0.0
    with router(servers, index_dir, circuit_failures=0) as service:
        search(service, picture)
        for stage in NEEDED:
            server = servers.of(stage)
            for server.fault in FAULTS:
                told = search(service, picture, **{wire.DEADLINE_HEADER: "300"})
                assert told.reply.status in (503, 504)
                late_ms = max(late_ms, told.ms - 300)
            server.fault = None
    promise("deadline.late_by", late_ms, "ms", at_most=SLACK_MS)


def test_without_metadata_a_search_has_all_its_hits_and_says_what_is_missing(
    servers: ModelServers, index_dir: Path, picture: bytes, promise: Promise
) -> None:
    slowest_ms, complete = 0.0, 0
    with router(servers, index_dir, circuit_failures=0, **STAGE_MS) as service:
        well = search(service, picture)
        assert well.body["attributes"] and not well.body["degraded"]
        for servers.describe.fault in FAULTS:
            told = search(service, picture)
            assert (told.reply.status, told.body["degraded"]) == (200, ["describe"])
            assert "attributes" not in told.body
            complete += hit_ids(told) == hit_ids(well)
            slowest_ms = max(slowest_ms, told.ms)
    promise("no_metadata.searches_with_all_hits", complete / len(FAULTS), "of 1", at_least=1)
    promise("no_metadata.slowest_answer", slowest_ms, "ms", at_most=500 + SLACK_MS)


@pytest.mark.parametrize("fault", [never, answers_500, hangs_up], ids=lambda fault: fault.__name__)
def test_a_dead_server_is_left_alone_and_found_again(
    servers: ModelServers, index_dir: Path, picture: bytes, promise: Promise, fault: Answer
) -> None:
    searches, open_s = 60, 0.3
    with router(servers, index_dir, circuit_failures=3, circuit_open_s=open_s, **STAGE_MS) as service:
        search(service, picture)
        servers.embed.fault, servers.embed.calls = fault, 0
        start_s = time.monotonic()
        told = [search(service, picture) for _ in range(searches)]
        probes = (time.monotonic() - start_s) / open_s
        assert {one.reply.status for one in told} <= {503, 504}
        refused = [one for one in told if "left alone" in one.body["error"]["message"]]
        assert len(refused) > searches / 3 and all(one.reply.headers["retry-after"] for one in refused)
        # Each call may be sent twice.
        assert servers.embed.calls <= 2 * (3 + probes + 1)
        servers.embed.fault = None
        start_s = time.monotonic()
        while search(service, picture).reply.status != 200:
            assert time.monotonic() - start_s < 10
            time.sleep(0.02)
        back_s = time.monotonic() - start_s
    name = fault.__name__.replace("answers_", "")
    promise(f"circuit.refused_in_{name}", statistics.median(one.ms for one in refused), "ms", at_most=100)
    promise(f"circuit.found_again_{name}", back_s, "s", at_most=open_s + 1)


def test_a_circuit_to_the_metadata_server_spares_searches_the_wait(
    servers: ModelServers, index_dir: Path, picture: bytes, promise: Promise
) -> None:
    with router(servers, index_dir, circuit_failures=3, circuit_open_s=30, describe_ms=500) as service:
        search(service, picture)
        servers.describe.fault = never
        told = [search(service, picture) for _ in range(13)]
    assert all((one.reply.status, one.body["degraded"]) == (200, ["describe"]) for one in told)
    promise("circuit.search_without_metadata", statistics.median(one.ms for one in told[3:]), "ms", at_most=250)


@pytest.mark.parametrize("stage", [*NEEDED, "describe"])
def test_health_names_the_model_that_fails_and_is_well_again_with_it(
    servers: ModelServers, index_dir: Path, picture: bytes, stage: str
) -> None:
    model = {"detect": "detector", "embed": "embedder", "describe": "metadata_creator"}[stage]
    with router(servers, index_dir, circuit_failures=2, circuit_open_s=60, deadline_ms=1000) as service:
        for servers.of(stage).fault in FAULTS[:2]:
            for _ in range(3):
                told = search(service, b"", url_path="healthz")
                wrong = [name for name, state in told.body["checks"].items() if state != "ok"]
                assert (told.reply.status, wrong) == (503, [model])
        servers.of(stage).fault = None
        told = search(service, b"", url_path="healthz")
        assert told.reply.status == 200, told.body
        assert search(service, picture).reply.status == 200  # the health check has closed the circuit
