"""The gateway in front of a real TorchServe: every model, item endpoints that the router follows, the clients."""

import asyncio
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lookalike.cli import app as cli
from lookalike.client import AsyncClient, Client
from lookalike.errors import CorruptImage, UnsupportedImage
from lookalike.gateway.index_view import IndexView
from lookalike.gateway.keys import new_key
from lookalike.index.layout import IndexLayout
from lookalike.server import ServerProcess
from tests.e2e.catalogue_drawn import draw, encoded
from tests.e2e.surroundings import ROOT
from tests.gateway_running import client_of, running_gateway

ADMIN, ADMIN_KEY = new_key("ops", "admin")
MODELS = ("search", "detector", "embedder", "metadata_creator")


@pytest.fixture(scope="module")
def gateway(server: ServerProcess, index_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gateway's address; what its tests do to the index is undone at the end."""
    before = IndexLayout(index_dir).current_version()
    assert before is not None
    kept = tmp_path_factory.mktemp("kept")
    shutil.copytree(index_dir / "versions" / before, kept / before)
    catalogue = Path(IndexView(index_dir).item("disc-red").path).parent
    settings = {
        "upstream_url": server.base_url,
        "index_dir": index_dir,
        "catalogue_roots": [catalogue],
        "cache_dir": tmp_path_factory.mktemp("cache"),
        "keys": [ADMIN_KEY],
        "rate": "",
    }
    with running_gateway(**settings) as url:
        yield url
    layout = IndexLayout(index_dir)
    if not (layout.versions_dir / before).exists():
        shutil.copytree(kept / before, layout.versions_dir / before)
    layout.point_to(before)
    _wait_for(server.base_url, before)


def _wait_for(url: str, version: str) -> None:
    until = time.monotonic() + 20
    while httpx.get(f"{url}/predictions/search/1.0/info").json()["version"] != version:
        assert time.monotonic() < until, f"the router does not take {version}"
        time.sleep(0.1)


def test_it_is_ready_when_a_search_could_be_answered(gateway):
    with client_of(gateway) as client:
        checks = client.get("/healthz").json()["checks"]
    assert set(checks.values()) == {"ok"} and {"server", "index", "search"} <= set(checks)


@pytest.mark.parametrize("model", MODELS)
def test_every_model_answers_as_the_document_says(gateway, model):
    image = encoded(draw("disc", "red", 5))
    with client_of(gateway) as client:  # which holds each reply against the OpenAPI document
        assert client.post(f"/predictions/{model}", content=image).status_code == 200
        assert client.post(f"/predictions/{model}", files={"image": ("a.jpg", image)}).status_code == 200
        assert client.get(f"/predictions/{model}/1.0/info").status_code == 200
        assert client.get(f"/predictions/{model}/1.0/healthz").status_code == 200
        reply = client.post(f"/predictions/{model}", content=b"no image")
        assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_image")
        wrong = client.post(f"/predictions/{model}", content=image, headers={"x-lookalike-colour": "red"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "invalid_option")


def test_the_gateway_changes_no_answer(gateway, server):
    image = encoded(draw("ring", "blue", 3))
    headers = {"content-type": "image/jpeg", "x-lookalike-top-k": "4"}

    def hits(url: str) -> object:
        return httpx.post(f"{url}/predictions/search", content=image, headers=headers).json()["hits"]

    assert hits(gateway) == hits(server.base_url)


@pytest.mark.parametrize(
    ("query", "check"),
    [
        ("top_k=3", lambda found: len(found["hits"]) == 3),
        ("crop=none", lambda found: found["subject"]["source"] == "whole_image"),
        ("box=20,20,300,300", lambda found: found["subject"]["box"] == [20, 20, 300, 300]),
        ('filters={"colour": ["blue"]}', lambda found: {h["attributes"]["colour"] for h in found["hits"]} == {"blue"}),
        ("attributes=false", lambda found: "attributes" not in found),
        ("min_similarity=0.999", lambda found: len(found["hits"]) < 10),
        ("subjects=2", lambda found: len(found["subjects"]) >= 1),
    ],
)
def test_every_option_works_in_the_query_string(gateway, query, check):
    with client_of(gateway) as client:
        reply = client.post(f"/predictions/search?{query}", content=encoded(draw("disc", "red", 5)))
    assert reply.status_code == 200 and check(reply.json())


def test_a_deadline_in_the_query_string_is_kept(gateway):
    with client_of(gateway) as client:
        reply = client.post("/predictions/search?deadline_ms=0.01", content=encoded(draw("disc", "red", 5)))
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_an_image_sent_by_curl_without_a_type_is_searched(gateway):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    with client_of(gateway) as client:
        reply = client.post("/predictions/search", content=encoded(draw("disc", "red", 5)), headers=headers)
    assert reply.status_code == 200


def test_an_item_that_is_put_is_found_and_one_that_is_deleted_is_not(gateway):
    image = encoded(draw("stripes", "violet", 77), "PNG")
    with client_of(gateway, ADMIN) as client:
        put = client.put("/items/fresh%2Fone", params={"title": "Fresh"}, content=image).json()
        _wait_for(gateway, put["version"])
        best = client.post("/predictions/search?crop=none", content=image).json()["hits"][0]
        assert (best["item_id"], best["title"]) == ("fresh/one", "Fresh")
        assert best["similarity"] > 0.999  # the ingest and the search see the same
        thumbnail = client.get("/items/fresh%2Fone/thumbnail?edge=64", headers={"accept": "image/webp"})
        assert Image.open(io.BytesIO(thumbnail.content)).size == (64, 64)
        gone = client.delete("/items/fresh%2Fone").json()
        _wait_for(gateway, gone["version"])
        found = client.post("/predictions/search?crop=none", content=image).json()["hits"]
        assert "fresh/one" not in {hit["item_id"] for hit in found}
        assert client.get("/index").json()["serving"]["version"] == gone["version"]


def test_a_snapshot_that_is_restored_is_searched(gateway):
    with client_of(gateway, ADMIN) as client:
        made = client.post("/snapshots", json={"name": "all"}).json()
        client.post("/items/batch", json={"delete": ["disc-red", "disc-blue"]})
        restored = client.post("/snapshots/all/restore").json()
        assert restored["version"] == made["version"]
        _wait_for(gateway, made["version"])


def test_searches_go_on_while_items_change(gateway):
    image = encoded(draw("cross", "green", 9))

    async def search_while_changing() -> list[str]:
        async with AsyncClient(gateway, ADMIN, retries=0) as client, httpx.AsyncClient(base_url=gateway) as http:
            http.headers["x-api-key"] = ADMIN

            async def change() -> None:
                for i in range(4):
                    picture = encoded(draw("cross", "green", 100 + i), "PNG")
                    (await http.put(f"/items/moving-{i % 2}", content=picture, timeout=30)).raise_for_status()

            changing = asyncio.create_task(change())
            versions = []
            while not changing.done():
                versions.append((await client.search(image, top_k=1)).index.version)
            await changing
            return versions

    assert len(asyncio.run(search_while_changing())) > 3  # none of them failed


def test_the_python_client_makes_every_call(gateway):
    photo = draw("disc", "red", 5)
    with Client(gateway) as client:
        found = client.search(photo, top_k=3, filters={"colour": ["red"]})
        assert {hit.attributes["colour"] for hit in found.hits} == {"red"}
        assert client.detect(photo).detections
        assert client.embed(photo, photo).embeddings.shape == (2, 512)
        assert np.allclose(np.linalg.norm(client.embed(photo).embeddings, axis=1), 1, atol=1e-4)
        assert client.describe(photo)[0].attributes
        assert client.thumbnail("disc-red", 64)
        with pytest.raises(UnsupportedImage):
            client.search(b"no image")
        with pytest.raises(CorruptImage):
            client.search(encoded(photo)[:300])


def test_two_trips_find_what_one_finds_for_a_fraction_of_the_bytes(gateway):
    ground = Image.new("RGB", (3000, 2000), (225, 222, 210))
    ground.paste(draw("disc", "blue", 4).resize((900, 900)), (1200, 500))
    photo = encoded(ground, "PNG")
    with Client(gateway) as client:
        once, twice = client.search(photo, top_k=1), client.two_trip(photo, top_k=1)
    assert twice.response.hits[0].item_id == once.hits[0].item_id
    assert twice.response.subject.source == "whole_image"
    assert twice.box is not None and max(abs(a - b) for a, b in zip(twice.box, once.subject.box, strict=True)) < 60


def test_search_in_the_terminal(gateway, tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encoded(draw("disc", "red", 5)))
    table = CliRunner().invoke(cli, ["search", str(photo), "--url", gateway, "--top-k", "2"])
    assert table.exit_code == 0 and "disc-red" in table.stdout
    told = CliRunner().invoke(cli, ["search", str(photo), "--url", gateway, "--top-k", "2", "--json"])
    assert json.loads(told.stdout)["hits"][0]["item_id"] == "disc-red"


def test_the_command_serves_and_ends_well(server, index_dir, tmp_path):
    config = tmp_path / "gateway.yaml"
    config.write_text(f"upstream_url: {server.base_url}\nindex_dir: {index_dir}\ncache_dir: {tmp_path}\n")
    command = [
        sys.executable,
        "-m",
        "lookalike.cli",
        "web",
        "--root",
        str(ROOT),
        "--config",
        str(config),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        told = next(json.loads(line)["message"] for line in lines if "running on" in line)
        url = told.split("running on ")[1].split()[0]
        assert httpx.get(f"{url}/healthz", timeout=30).json()["ready"]
        assert "Lookalike" in httpx.get(url).text
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM  # drained, then ended as it was told
        logged = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert [line["route"] for line in logged if line["message"] == "request"] == ["/"]


def test_a_wrong_setting_is_told_in_one_line(tmp_path):
    config = tmp_path / "gateway.yaml"
    config.write_text("prot: 1\n")
    command = [sys.executable, "-m", "lookalike.cli", "web", "--root", str(ROOT), "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: GatewaySettings: prot:") and done.stderr.count("\n") == 1
