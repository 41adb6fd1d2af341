"""A router on a catalogue in Milvus: the answers of one on an index folder, a switch of the alias, an outage."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lookalike.archives import ArchiveSources, build_archives
from lookalike.config import IndexSettings, RouterSettings
from lookalike.index.milvus.catalogue import MilvusCatalogue
from lookalike.index.milvus.migrate import Options, folder_to_milvus
from lookalike.rows import Reply, Row
from lookalike.schemas import SearchResponse
from lookalike.search_service import SearchService
from lookalike.server_config import ServerFiles
from tests.e2e.catalogue_drawn import draw, encoded
from tests.e2e.surroundings import ROOT
from tests.milvus_running import MilvusServer, milvus_server
from tests.served import own_environment

PICTURE = encoded(draw("ring", "red", seed=5))


@pytest.fixture(scope="module")
def milvus(index_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    """A server with the drawn catalogue."""
    with milvus_server(tmp_path_factory.mktemp("milvus")) as server:
        migrate(server, index_dir, Options(sample=10))
        yield server


def migrate(server: MilvusServer, index_dir: Path, options: Options) -> str:
    connection = server.connect(consistency_level="Strong")
    return folder_to_milvus(index_dir, MilvusCatalogue(connection, "drawn"), options, IndexSettings()).version


@pytest.fixture(scope="module")
def archives_dir() -> Path:
    archives_dir = ServerFiles.of(ROOT).archives
    build_archives(ArchiveSources.of(ROOT), archives_dir)
    return archives_dir


@pytest.fixture(scope="module")
def on_folder(index_dir: Path, archives_dir: Path) -> Iterator[SearchService]:
    with own_environment(LOOKALIKE_ROUTER_MODELS="in_process"):
        service = SearchService(RouterSettings(archives_dir=archives_dir, index_dir=index_dir))
    yield service
    service.close()


@pytest.fixture(scope="module")
def on_milvus(
    milvus: MilvusServer, archives_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SearchService]:
    place = {"LOOKALIKE_MILVUS_URI": milvus.uri, "LOOKALIKE_MILVUS_CATALOGUE": "drawn"}
    with own_environment(LOOKALIKE_ROUTER_MODELS="in_process", **place):
        nothing = tmp_path_factory.mktemp("nothing")
        settings = {"index_engine": "milvus", "index_dir": nothing, "index_poll_s": 0.1}
        service = SearchService(RouterSettings(archives_dir=archives_dir, **settings))
    yield service
    service.close()


def searched(service: SearchService, headers: dict[str, str] | None = None) -> SearchResponse:
    (reply,) = service.respond([Row("r", body=PICTURE, headers=headers or {})])
    assert reply.status == 200, reply.body
    return SearchResponse.model_validate_json(reply.body)


def health(service: SearchService) -> Reply:
    (reply,) = service.respond([Row("r", headers={"url_path": "healthz"})])
    return reply


def within(limit_s: float, true: Callable[[], bool]) -> None:
    end_s = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.05)


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-lookalike-filters": '{"colour": ["blue", "red"]}'}, {"x-lookalike-like": '["disc-red"]'}],
)
def test_it_answers_as_a_router_on_an_index_folder(
    on_folder: SearchService, on_milvus: SearchService, headers: dict[str, str]
) -> None:
    expected, found = searched(on_folder, headers), searched(on_milvus, headers)
    assert [(hit.item_id, hit.attributes) for hit in found.hits] == [(h.item_id, h.attributes) for h in expected.hits]
    assert [hit.similarity for hit in found.hits] == pytest.approx([hit.similarity for hit in expected.hits], abs=1e-5)
    assert (found.index.count, found.index.kind) == (expected.index.count, expected.index.kind) == (36, "flat")
    assert found.index.version.startswith("drawn_000001_")


def test_it_reports_what_serves(on_milvus: SearchService) -> None:
    ready = health(on_milvus)
    body = json.loads(ready.body)
    assert (ready.status, body["ready"], body["index"]["count"]) == (200, True, 36)
    assert list(body["open_indexes"].values()) == [body["index"]["version"]]
    (info,) = on_milvus.respond([Row("r", headers={"url_path": "info"})])
    assert json.loads(info.body) == body["index"]


def test_a_switch_of_the_alias_is_followed_without_a_failed_search(
    milvus: MilvusServer, on_milvus: SearchService, index_dir: Path
) -> None:
    before = searched(on_milvus)
    new = migrate(milvus, index_dir, Options("hnsw", sample=10))
    within(10, lambda: searched(on_milvus).index.version == new)
    after = searched(on_milvus)
    assert (after.index.kind, after.hits[0].item_id) == ("hnsw", before.hits[0].item_id)


def test_an_outage_is_told_in_time_and_ends_with_the_servers(milvus: MilvusServer, on_milvus: SearchService) -> None:
    milvus.stop()
    start_s = time.monotonic()
    (reply,) = on_milvus.respond([Row("r", body=PICTURE)])
    assert (reply.status, reply.code) == (503, "index_unavailable")
    assert time.monotonic() - start_s < 2.5
    sick = health(on_milvus)
    assert sick.status == 503
    assert f"Milvus at {milvus.uri} failed while searching" in json.loads(sick.body)["checks"]["search"]
    milvus.start()
    within(20, lambda: health(on_milvus).status == 200)
    assert searched(on_milvus).hits
