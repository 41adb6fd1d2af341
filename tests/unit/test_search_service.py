"""The router when the parts behind it fail: what its clients and its metrics are told."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike.batching import golden_image
from lookalike.config import RouterSettings
from lookalike.rows import Row
from lookalike.search_service import SearchService


@pytest.fixture
def unreachable(tmp_path: Path) -> Iterator[SearchService]:
    """A router whose models cannot be reached, on an index where nothing was published."""
    url = "http://127.0.0.1:9/m"
    settings = RouterSettings(index_dir=tmp_path, detector_url=url, embedder_url=url, metadata_url=url)
    service = SearchService(settings)
    yield service
    service.close()


def test_a_search_that_fails_is_timed_as_a_whole(unreachable: SearchService) -> None:
    (reply,) = unreachable.respond([Row("r", body=golden_image())])
    assert (reply.status, reply.code) == (503, "index_unavailable")
    assert reply.stages_ms["total"] > 0


def test_health_without_any_index_names_no_refused_one_and_no_address(unreachable: SearchService) -> None:
    (reply,) = unreachable.respond([Row("r", headers={"url_path": "healthz"})])
    body = json.loads(reply.body)
    assert reply.status == 503
    assert body["checks"]["embedder"] == "embed: the model server cannot be reached"
    assert "no index version is published" in body["checks"]["index"]
    assert "refused_index" not in body


def test_every_reply_reports_the_circuits_and_an_error_says_when_to_come_back(unreachable: SearchService) -> None:
    for _ in range(5):
        (reply,) = unreachable.respond([Row("r", headers={"url_path": "healthz"})])
    assert {stage: state.is_open for stage, state in reply.circuits.items()} == dict.fromkeys(
        ("detect", "embed", "describe"), True
    )
    (reply,) = unreachable.respond([Row("r", body=golden_image())])
    assert reply.headers["retry-after"] == "1"
