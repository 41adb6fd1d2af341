"""Real photos through the real service: phone photos of paintings find the paintings in a live index."""

import csv
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lookalike.catalogue import Catalogue, Item
from lookalike.config import IndexSettings
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.index.edits import IndexEditor
from lookalike.schemas import SearchResponse
from lookalike.server import ServerProcess
from tests.e2e.surroundings import ROOT

DATA = Path(os.environ.get("LOOKALIKE_DATA", ROOT / "../shared/data")) / "retrieval"
QUERIES = 40

pytestmark = pytest.mark.skipif(
    not (DATA / "manifest.csv").exists(), reason=f"no photos under {DATA}: set LOOKALIKE_DATA to the evaluation data"
)


def paintings(role: str) -> list[dict[str, str]]:
    with (DATA / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == "museum-paintings"]
    return [row for row in rows if row["role"] == role and row["vintage"] == "19"]


@pytest.fixture(scope="module")
def painting_ids(server: ServerProcess, index_dir: Path) -> Iterator[dict[str, str]]:
    """Add the catalogue pictures to the live index for these tests; class_id by item_id."""
    rows = paintings("gallery")
    items = [Item(f"painting/{row['file']}", DATA / row["file"], attributes={"shape": "painting"}) for row in rows]
    editor = IndexEditor(index_dir, IndexSettings())
    version = editor.add(Catalogue(DATA, items), WholeImageEmbedder.load(ROOT / "var/models/embedder")).manifest.version
    end_s = time.monotonic() + 20
    while httpx.get(f"{server.base_url}/predictions/search/1.0/info").json()["version"] != version:
        assert time.monotonic() < end_s, "the running router did not take the new version"
        time.sleep(0.1)
    yield {item.item_id: row["class_id"] for item, row in zip(items, rows, strict=True)}
    editor.remove([item.item_id for item in items])


def test_phone_photos_find_the_catalogue_picture(server: ServerProcess, painting_ids: dict[str, str]) -> None:
    queries = [row for row in paintings("query") if row["class_id"] in painting_ids.values()][:QUERIES]
    found = 0
    with httpx.Client(base_url=server.base_url, timeout=30) as client:
        for row in queries:
            fields = {"top_k": "1", "crop": "none", "filters": '{"shape": ["painting"]}'}
            files = {"image": (DATA / row["file"]).read_bytes()}
            reply = client.post("/predictions/search", files=files, data=fields)
            (hit,) = SearchResponse.model_validate_json(reply.content).hits
            found += painting_ids[hit.item_id] == row["class_id"]
    assert found / len(queries) >= 0.9
