"""The HTTP API end to end: every body, option and error of docs/api.md on the real models."""

import base64
import concurrent.futures
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.bench_index_load import build
from lookalike.batching import golden_image
from lookalike.catalogue import Catalogue, Item
from lookalike.config import IndexSettings
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.images import crop_box
from lookalike.index.edits import IndexEditor
from lookalike.index.layout import IndexLayout
from lookalike.model_store import read_built_model
from lookalike.schemas import DetectorResponse, EmbedderResponse, MetadataResponse, SearchResponse
from lookalike.server import ServerProcess
from tests.e2e.catalogue_drawn import draw, encoded
from tests.e2e.surroundings import ROOT

QUERY = draw("ring", "red", seed=5)  # not the catalogue's picture: another place, another ground


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url, timeout=30) as client:
        yield client


def search(client: httpx.Client, image: bytes, **options: Any) -> httpx.Response:
    fields = {name: json.dumps(value) for name, value in options.items() if not isinstance(value, str)}
    fields |= {name: value for name, value in options.items() if isinstance(value, str)}
    return client.post("/predictions/search", files={"image": image}, data=fields)


def found(response: httpx.Response) -> SearchResponse:
    assert response.status_code == 200, response.text
    return SearchResponse.model_validate_json(response.content)


def error(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_raw_multipart_and_json_bodies_find_the_same(client: httpx.Client) -> None:
    image = encoded(QUERY, "PNG")
    raw = client.post(
        "/predictions/search",
        content=image,
        headers={"content-type": "image/png", "x-lookalike-top-k": "3", "x-lookalike-crop": "none"},
    )
    as_json = client.post(
        "/predictions/search", json={"image": base64.b64encode(image).decode(), "top_k": 3, "crop": "none"}
    )
    answers = [found(response) for response in (raw, as_json, search(client, image, top_k=3, crop="none"))]
    assert len({str(answer.hits) for answer in answers}) == 1
    assert answers[0].hits[0].item_id.startswith("ring-")
    assert answers[0].hits[0].title.endswith(" ring")
    assert answers[0].image.format == "PNG"
    assert len(answers[0].hits) == 3
    assert raw.headers["content-type"] == "application/json"


def test_a_client_box_is_searched_and_described(client: httpx.Client) -> None:
    scene = Image.new("RGB", (900, 500), "white")
    scene.paste(QUERY, (500, 100))
    answer = found(search(client, encoded(scene), box=[500, 100, 820, 420]))
    assert answer.subject.source == "client"
    assert answer.hits[0].item_id.startswith("ring-")
    assert answer.attributes


def test_filters_return_only_items_that_qualify(client: httpx.Client) -> None:
    answer = found(search(client, encoded(QUERY), filters={"colour": ["blue"], "shape": ["disc", "cross"]}, top_k=50))
    assert {hit.item_id for hit in answer.hits} == {"disc-blue", "cross-blue"}


def test_several_subjects_each_have_their_own_hits(client: httpx.Client) -> None:
    answer = found(search(client, golden_image(), subjects=3, top_k=2))
    assert answer.subjects
    assert 2 <= len(answer.subjects) <= 4
    assert answer.subjects[-1].subject.source == "whole_image"
    assert all(len(subject.hits) == 2 for subject in answer.subjects)
    best = max(subject.hits[0].similarity for subject in answer.subjects)
    assert answer.hits[0].similarity == best


def test_the_similarity_floor_and_attributes_false_are_kept(client: httpx.Client) -> None:
    answer = found(search(client, encoded(QUERY), min_similarity=0.9999, attributes=False, crop="none"))
    assert answer.hits == []
    assert answer.attributes is None


def test_two_trips_find_what_one_search_finds(client: httpx.Client) -> None:
    photo = Image.open(io.BytesIO(golden_image()))
    small = photo.resize((photo.width // 2, photo.height // 2))
    reply = client.post("/predictions/detector", files={"image": encoded(small, "PNG")})
    detections = DetectorResponse.model_validate_json(reply.content).detections
    box = [2 * edge for edge in detections[0].box]
    crop = crop_box(photo, tuple(box))
    two_trips = found(search(client, encoded(crop, "PNG"), crop="none"))
    one = found(search(client, golden_image(), box=box))
    assert [h.item_id for h in two_trips.hits[:3]] == [h.item_id for h in one.hits[:3]]


def test_embeddings_are_normalised_and_name_their_embedder(client: httpx.Client) -> None:
    files = {"image1": encoded(QUERY), "image2": encoded(draw("disc", "blue"))}
    reply = client.post("/predictions/embedder", files=files)
    answer = EmbedderResponse.model_validate_json(reply.content)
    assert np.linalg.norm(answer.embeddings, axis=1) == pytest.approx([1, 1], abs=1e-4)
    assert reply.headers["x-lookalike-fingerprint"] == answer.fingerprint


def test_metadata_describes_a_crop(client: httpx.Client) -> None:
    reply = client.post("/predictions/metadata_creator", files={"image": encoded(QUERY)})
    (description,) = MetadataResponse.model_validate_json(reply.content).descriptions
    names = {attribute.name for attribute in description.attributes}
    assert names == {"gender", "articleType", "masterCategory", "subCategory", "baseColour", "season", "usage"}


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (b"<svg></svg>", {}, (415, "unsupported_image")),
        (encoded(QUERY)[:2000], {}, (422, "corrupt_image")),
        (encoded(QUERY), {"top_k": 0}, (422, "invalid_option")),
        (encoded(QUERY), {"colour": "red"}, (422, "invalid_option")),
        (encoded(QUERY), {"filters": {"size": ["XL"]}}, (422, "invalid_option")),
        (encoded(QUERY), {"box": [5000, 0, 6000, 10]}, (422, "invalid_option")),
        (encoded(Image.new("1", (17_000, 10)), "PNG"), {}, (413, "image_too_large")),
    ],
)
def test_bad_input_gets_its_status_and_code(
    client: httpx.Client, image: bytes, options: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert error(search(client, image, **options)) == expected


def test_malformed_json_is_a_bad_request(client: httpx.Client) -> None:
    reply = client.post("/predictions/search", content=b'{"image": ', headers={"content-type": "application/json"})
    assert error(reply) == (400, "invalid_request")


def test_an_unknown_filter_names_those_that_exist(client: httpx.Client) -> None:
    reply = search(client, encoded(QUERY), filters={"size": ["XL"]})
    assert reply.json()["error"]["allowed"] == ["colour", "shape"]


def test_a_deadline_that_cannot_be_met_names_the_stage(client: httpx.Client) -> None:
    reply = client.post(
        "/predictions/search",
        content=encoded(QUERY),
        headers={"content-type": "image/jpeg", "x-lookalike-deadline-ms": "1"},
    )
    assert error(reply) == (504, "deadline_exceeded")
    assert "stage" in reply.json()["error"]["message"]


def test_a_corrupt_photo_among_eight_leaves_seven_200s(client: httpx.Client) -> None:
    photos = [encoded(QUERY)] * 7 + [encoded(QUERY)[:500]]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        statuses = [reply.status_code for reply in threads.map(lambda photo: search(client, photo), photos)]
    assert sorted(statuses) == [200] * 7 + [422]


def test_the_client_request_id_comes_back(client: httpx.Client) -> None:
    headers = {"content-type": "image/jpeg", "x-request-id": "trace-42"}
    reply = client.post("/predictions/search", content=encoded(QUERY), headers=headers)
    assert reply.headers["x-lookalike-request-id"] == "trace-42"
    assert reply.json()["request_id"] == "trace-42"


def test_a_new_version_is_swapped_in_without_a_failed_request(
    client: httpx.Client, index_dir: Path, tmp_path: Path
) -> None:
    before = IndexLayout(index_dir).current_version()
    draw("ring", "red", seed=5).save(tmp_path / "new.png")
    item = Item("brand-new", tmp_path / "new.png", attributes={"colour": "red"})
    editor = IndexEditor(index_dir, IndexSettings())
    image = encoded(QUERY, "PNG")
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        adding = threads.submit(
            editor.add, Catalogue(tmp_path, [item]), WholeImageEmbedder.load(ROOT / "var/models/embedder")
        )
        versions: list[str] = []
        for _ in range(400):
            answer = found(search(client, image, crop="none", top_k=1, attributes=False))
            versions.append(answer.index.version)
            if answer.hits[0].item_id == "brand-new":
                break
        after = adding.result().manifest.version
    assert answer.hits[0].item_id == "brand-new"
    assert list(dict.fromkeys(versions)) == [before, after]
    editor.remove(["brand-new"])


def health_when(client: httpx.Client, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return the body of the first healthz that has `reached` what is waited for; the service is ready all along."""
    end_s = time.monotonic() + 20
    while True:
        reply = client.get("/predictions/search/1.0/healthz")
        assert reply.status_code == 200, reply.text
        if reached(reply.json()):
            return dict(reply.json())
        assert time.monotonic() < end_s, reply.text
        time.sleep(0.1)


def test_a_version_of_another_embedder_waits_for_it_and_never_answers(client: httpx.Client, index_dir: Path) -> None:
    layout = IndexLayout(index_dir)
    before = layout.current_version()
    assert before
    health_when(client, lambda body: body["index"]["version"] == before)
    build(index_dir, "flat", 10, 1280, fingerprint="f" * 16)
    try:
        body = health_when(client, lambda body: "f" * 16 in body["open_indexes"])
        assert body["checks"]["index"] == "ok"
        assert "refused_index" not in body
        answer = found(search(client, encoded(QUERY), attributes=False))
        assert answer.index.version == body["index"]["version"] == before
    finally:
        layout.point_to(before)
        layout.previous_pointer.unlink()
    health_when(client, lambda body: "f" * 16 not in body["open_indexes"])


def test_the_lines_of_the_models_carry_the_id_of_the_search(client: httpx.Client, server: ServerProcess) -> None:
    headers = {"content-type": "image/jpeg", "x-request-id": "trace-hops"}
    assert client.post("/predictions/search", content=golden_image(), headers=headers).status_code == 200
    end_s, endpoints = time.monotonic() + 10, set()
    while not endpoints >= {"search", "detector", "embedder"}:  # lines are written behind the reply
        assert time.monotonic() < end_s, endpoints
        time.sleep(0.1)
        lines = [json.loads(line) for line in server.log_file.read_text().splitlines() if "trace-hops" in line]
        endpoints = {line.get("endpoint") for line in lines}


@pytest.mark.parametrize("name", ["detector", "embedder", "metadata_creator"])
def test_every_model_says_what_it_is(client: httpx.Client, name: str) -> None:
    built = read_built_model(ROOT / "var/models" / name)
    card = client.get(f"/predictions/{name}/{built.version}/info").json()
    assert (card["name"], card["version"], card["fingerprint"]) == (name, built.version, built.fingerprint)
