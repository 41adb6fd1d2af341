"""The samples that the gateway offers: spread, real, the same for everybody, and only what can be shown."""

import io
from contextlib import contextmanager

import pytest
from PIL import Image

from lookalike.catalogue import Catalogue, Item
from lookalike.config import IndexSettings
from lookalike.gateway.keys import new_key
from lookalike.gateway.samples import spread_rows
from lookalike.index.edits import IndexEditor
from tests.colour_embedder import ColourEmbedder, catalogue_of, save_picture
from tests.gateway_running import client_of, running_gateway

READ, READ_KEY = new_key("people", "read")
TITLE = "<img src=x onerror=alert(1)>"
ITEM_ID = "../<b>/ü ?#"


@contextmanager
def gateway_over(folder, **settings):
    places = {"index_dir": folder / "index", "cache_dir": folder / "cache", "catalogue_roots": [folder / "photos"]}
    with running_gateway(**{"upstream_url": "http://127.0.0.1:9", "rate": "", **places, **settings}) as url:
        yield url


@pytest.fixture
def shop(tmp_path):
    """A folder with an index of 20 items."""
    IndexEditor(tmp_path / "index", IndexSettings()).build(catalogue_of(tmp_path / "photos", 20), ColourEmbedder())
    return tmp_path


def sampled(client) -> list[str]:
    return [sample["item_id"] for sample in client.get("/samples").json()["samples"]]


@pytest.mark.parametrize(
    ("count", "wanted", "rows"), [(20, 4, [2, 7, 12, 17]), (3, 8, [0, 1, 2]), (8, 1, [4]), (0, 8, []), (8, 0, [])]
)
def test_rows_lie_in_the_middle_of_equal_shares(count, wanted, rows):
    assert spread_rows(count, wanted) == rows


def test_the_samples_are_spread_over_the_catalogue_and_the_same_for_everybody(shop):
    with gateway_over(shop, samples=4) as url, client_of(url) as client:
        assert sampled(client) == ["item-2", "item-7", "item-12", "item-17"]
    with gateway_over(shop, samples=4) as url, client_of(url) as client:
        assert sampled(client) == ["item-2", "item-7", "item-12", "item-17"]


def test_a_samples_picture_is_the_catalogues_own(shop):
    with gateway_over(shop) as url, client_of(url) as client:
        (sample, *_) = client.get("/samples").json()["samples"]
        number = sample["item_id"].removeprefix("item-")
        original = Image.open(shop / f"photos/{number}.png")
        picture = Image.open(io.BytesIO(client.get(sample["picture"]).content))
        assert picture.size == original.size
        shown = picture.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        wanted = original.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        assert max(abs(a - b) for a, b in zip(shown, wanted, strict=True)) < 8
        assert client.get(sample["thumbnail"]).status_code == 200


def test_a_picture_that_is_gone_or_changed_gives_way_to_its_neighbour(shop):
    (shop / "photos/2.png").unlink()
    save_picture(shop / "photos/7.png", 99)
    with gateway_over(shop, samples=4) as url, client_of(url) as client:
        assert sampled(client) == ["item-3", "item-8", "item-12", "item-17"]


def test_nothing_is_offered_where_no_picture_may_be_shown_or_the_operator_offers_none(shop):
    with gateway_over(shop, samples=0) as url, client_of(url) as client:
        assert sampled(client) == []
    with gateway_over(shop, catalogue_roots=[shop / "other"]) as url, client_of(url) as client:
        assert sampled(client) == []


def test_the_answer_is_known_by_its_etag_until_the_version_changes(shop):
    with gateway_over(shop) as url, client_of(url) as client:
        first = client.get("/samples")
        assert client.get("/samples", headers={"if-none-match": first.headers["etag"]}).status_code == 304
        IndexEditor(shop / "index", IndexSettings()).add(catalogue_of(shop / "photos", 1, first=20), ColourEmbedder())
        later = client.get("/samples", headers={"if-none-match": first.headers["etag"]})
        assert later.status_code == 200 and later.json()["version"] != first.json()["version"]


def test_an_id_and_a_title_of_any_kind_become_a_path_and_plain_text(tmp_path):
    item = Item(item_id=ITEM_ID, path=save_picture(tmp_path / "photos/1.png", 1), title=TITLE)
    IndexEditor(tmp_path / "index", IndexSettings()).build(Catalogue(tmp_path, [item]), ColourEmbedder())
    with gateway_over(tmp_path) as url, client_of(url) as client:
        reply = client.get("/samples")
        assert reply.headers["content-type"] == "application/json"
        (sample,) = reply.json()["samples"]
        assert (sample["item_id"], sample["title"]) == (ITEM_ID, TITLE)
        assert sample["picture"] == "/items/..%2F%3Cb%3E%2F%C3%BC%20%3F%23/thumbnail?edge=1024"
        assert client.get(sample["picture"]).status_code == 200


def test_they_need_the_key_that_a_search_needs(shop):
    with gateway_over(shop, keys=[READ_KEY]) as url:
        with client_of(url) as client:
            assert client.get("/samples").status_code == 401
        with client_of(url, READ) as client:
            assert len(sampled(client)) == 8
