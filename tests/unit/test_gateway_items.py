"""Items, thumbnails and snapshots through the gateway, on real indexes with a small real embedder behind."""

import base64
import io
import json
import tarfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from lookalike.config import IndexSettings
from lookalike.gateway.index_view import IndexView
from lookalike.gateway.keys import new_key
from lookalike.gateway.served_embedder import ServedEmbedder
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.index.edits import IndexEditor
from lookalike.index.verify import verify_snapshot
from lookalike.index.writer import IndexWriter
from tests.colour_embedder import ColourEmbedder, catalogue_of, save_picture
from tests.gateway_running import ColoursBehind, client_of, running_gateway, standing_behind

ADMIN, ADMIN_KEY = new_key("ops", "admin")
HOSTILE_IDS = [
    "../../etc/passwd",
    "a/../../b",
    "/etc/passwd",
    "C:\\x",
    "thumbnail",
    "a/thumbnail",
    "%2e%2e",
    "<b>",
    "ü 1",
    "?&#",
]
HOSTILE_TITLE = "<script>alert(1)</script>\x1b[31m\"'\u202e\r\nx: y"


@pytest.fixture(scope="module")
def behind():
    """The server behind, with a small real embedder."""
    with standing_behind(ColoursBehind()) as running:
        yield running


@pytest.fixture
def shop(tmp_path, behind):
    """A gateway over an index of 12 items, and its folder."""
    IndexEditor(tmp_path / "index", IndexSettings()).build(catalogue_of(tmp_path / "photos", 12), ColourEmbedder())
    with gateway_over(tmp_path, behind) as client:
        yield client, tmp_path


@contextmanager
def gateway_over(folder: Path, behind, **settings):
    """Yield a client of a gateway whose folders lie in `folder`."""
    places = {"index_dir": folder / "index", "cache_dir": folder / "cache", "catalogue_roots": [folder / "photos"]}
    given = {"upstream_url": behind[0], "keys": [ADMIN_KEY], "edit_window_ms": 5, "rate": "", **places, **settings}
    with running_gateway(**given) as url, client_of(url, ADMIN) as client:
        yield client


def picture(seed: int, folder: Path) -> bytes:
    return save_picture(folder / f"sent-{seed}.png", seed).read_bytes()


def code_of(reply) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def path_of(item_id: str) -> str:
    return f"/items/{quote(item_id, safe='')}"


def test_an_item_is_added_found_replaced_and_removed(shop):
    client, folder = shop
    put = client.put("/items/new", params={"title": "New"}, content=picture(100, folder))
    assert (put.status_code, put.json()["outcome"]) == (201, "added")
    assert client.get("/index").json()["version"] == put.json()["version"]
    seen = client.get("/items/new").json()
    assert (seen["title"], Path(seen["path"]).name) == ("New", seen["content_sha256"])
    again = client.put("/items/new", params={"title": "Newer"}, content=picture(101, folder))
    assert (again.status_code, again.json()["outcome"]) == (200, "replaced")
    assert client.delete("/items/new").json()["outcome"] == "removed"
    assert code_of(client.get("/items/new")) == (404, "unknown_item")
    assert code_of(client.delete("/items/new")) == (404, "unknown_item")
    verify_snapshot(IndexView(folder / "index").layout.published_dir())


def test_the_same_put_twice_publishes_nothing(shop):
    client, folder = shop
    first = client.put("/items/new", content=picture(100, folder)).json()
    assert client.put("/items/new", content=picture(100, folder)).json() == {**first, "outcome": "unchanged"}


@pytest.mark.parametrize("form", ["multipart", "json"])
def test_words_come_with_the_image_in_every_form(shop, form):
    client, folder = shop
    image, words = picture(100, folder), {"title": "T", "url": "https://a/b"}
    attributes = {"farbe": "grün"}
    if form == "multipart":
        data = {**words, "attributes": json.dumps(attributes)}
        reply = client.put("/items/a", files={"image": ("a.png", image)}, data=data)
    else:
        told = {**words, "attributes": attributes, "image": base64.b64encode(image).decode()}
        reply = client.put("/items/a", json=told)
    assert reply.status_code == 201
    seen = client.get("/items/a").json()
    assert {name: seen[name] for name in (*words, "attributes")} == {**words, "attributes": attributes}


def test_two_items_may_share_a_picture(shop):
    client, folder = shop
    for item_id in ("a", "b"):
        assert client.put(f"/items/{item_id}", content=picture(100, folder)).json()["outcome"] == "added"
    client.delete("/items/a")
    assert client.get("/items/b/thumbnail").status_code == 200
    assert not list((folder / "index").glob("reports/*"))


def test_words_alone_leave_the_picture(shop):
    client, _ = shop
    before = client.get("/items/item-3").json()
    assert client.put("/items/item-3", json={"title": "Three"}).json()["outcome"] == "replaced"
    after = client.get("/items/item-3").json()
    assert (after["title"], after["path"], after["attributes"]) == ("Three", before["path"], {})


@pytest.mark.parametrize("item_id", HOSTILE_IDS)
def test_an_id_is_never_a_path(shop, item_id):
    client, folder = shop
    image = picture(100, folder)
    before = {path for path in folder.rglob("*") if "index" not in path.parts}
    assert client.put(path_of(item_id), content=image).status_code == 201
    assert client.get(path_of(item_id)).json()["item_id"] == item_id
    assert client.get(f"{path_of(item_id)}/thumbnail").headers["content-type"] == "image/jpeg"
    assert {path for path in folder.rglob("*") if not {"index", "cache"} & set(path.parts)} == before
    assert client.delete(path_of(item_id)).status_code == 200


def test_an_id_with_slashes_may_be_sent_unencoded(shop):
    client, folder = shop
    client.put("/items/animals/cat.png", content=picture(100, folder))
    assert client.get("/items/animals%2Fcat.png").json()["item_id"] == "animals/cat.png"
    assert client.get("/items/animals/cat.png/thumbnail").status_code == 200


@pytest.mark.parametrize(
    ("item_id", "sent", "status", "code"),
    [
        ("a", {"content": b"no image"}, 415, "unsupported_image"),
        ("a", {"content": b"\x89PNG\r\n\x1a\n" + b"x" * 50}, 422, "corrupt_image"),
        ("a", {}, 400, "invalid_request"),
        ("a", {"json": {"title": "T"}}, 400, "invalid_request"),
        ("a", {"json": {"image": "%%%"}}, 400, "invalid_request"),
        ("a", {"json": {"titel": "T"}}, 422, "invalid_option"),
        ("a", {"json": {"url": "javascript:alert(1)"}}, 422, "invalid_option"),
        ("a", {"json": ["title"]}, 400, "invalid_request"),
        ("a", {"content": b"{", "headers": {"content-type": "application/json"}}, 400, "invalid_request"),
        ("a", {"content": b"x", "headers": {"content-type": "text/html"}}, 415, "unsupported_image"),
        ("a", {"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400, "invalid_request"),
        ("a\tb", {"content": b"x"}, 422, "invalid_option"),
        ("x" * 513, {"content": b"x"}, 422, "invalid_option"),
    ],
)
def test_a_wrong_put_is_refused_by_name_and_publishes_nothing(shop, item_id, sent, status, code):
    client, folder = shop
    version = client.get("/index").json()["version"]
    assert code_of(client.put(path_of(item_id), **sent)) == (status, code)
    assert client.get("/index").json()["version"] == version
    assert not list((folder / "index").glob("images/*"))


def test_hostile_words_come_back_as_they_are_and_break_nothing(shop):
    client, folder = shop
    sent = {"title": HOSTILE_TITLE, "image": base64.b64encode(picture(100, folder)).decode()}
    assert client.put("/items/a", json=sent).status_code == 201
    reply = client.get("/items/a")
    assert reply.json()["title"] == HOSTILE_TITLE
    assert reply.headers["content-type"] == "application/json"


def test_a_batch_reports_each_change_on_its_own(shop):
    client, folder = shop
    image = base64.b64encode(picture(100, folder)).decode()
    batch = {
        "put": [
            {"item_id": "a", "image": image},
            {"item_id": "b", "image": "bm8="},
            {"item_id": "item-1", "title": "One"},
        ],
        "delete": ["item-2", "nobody"],
    }
    told = client.post("/items/batch", json=batch).json()
    outcomes = {
        result["item_id"]: (result["outcome"], result.get("error", {}).get("code")) for result in told["results"]
    }
    assert outcomes == {
        "a": ("added", None),
        "b": ("refused", "unsupported_image"),
        "item-1": ("replaced", None),
        "item-2": ("removed", None),
        "nobody": ("refused", "unknown_item"),
    }
    assert client.get("/index").json()["count"] == 12
    assert told["version"] == client.get("/index").json()["version"]


@pytest.mark.parametrize("batch", [{}, {"delete": ["a", "a"]}, {"delete": [str(i) for i in range(300)]}, {"put": 1}])
def test_a_wrong_batch_is_refused_as_a_whole(shop, batch):
    assert shop[0].post("/items/batch", json=batch).status_code in (400, 422)


def test_changes_that_arrive_together_are_published_together(tmp_path, behind):
    IndexEditor(tmp_path / "index", IndexSettings()).build(catalogue_of(tmp_path / "photos", 3), ColourEmbedder())
    with gateway_over(tmp_path, behind, edit_window_ms=600) as client:
        versions: list[str] = []
        images = [picture(100 + i, tmp_path) for i in range(8)]

        def put(i: int) -> None:
            versions.append(client.put(f"/items/new-{i}", content=images[i]).json()["version"])

        threads = [threading.Thread(target=put, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(versions) == 8 and len(set(versions)) <= 2
        assert client.get("/index").json()["count"] == 11


def test_two_changes_of_one_item_keep_their_order(tmp_path, behind):
    with gateway_over(tmp_path, behind, edit_window_ms=1500) as client:
        first = threading.Thread(target=lambda: client.put("/items/a", content=picture(100, tmp_path)))
        first.start()
        while not list((tmp_path / "index").glob("images/*")):
            time.sleep(0.01)
        time.sleep(0.3)  # its image is kept: it is handed in within a moment
        assert client.delete("/items/a").json()["outcome"] == "removed"
        first.join()
        assert client.get("/index").json()["count"] == 0


def test_more_changes_than_may_wait_are_refused_at_once(tmp_path, behind):
    with gateway_over(tmp_path, behind, max_waiting_edits=1) as client:
        reply = client.post("/items/batch", json={"delete": ["a", "b"]})
        assert code_of(reply) == (503, "overloaded")
        assert reply.headers["retry-after"]


def test_the_first_item_makes_the_index(tmp_path, behind):
    with gateway_over(tmp_path, behind) as client:
        assert code_of(client.get("/items")) == (503, "index_unavailable")
        assert client.put("/items/a", content=picture(100, tmp_path)).status_code == 201
        assert client.get("/items").json()["count"] == 1


def test_another_writer_is_told_as_busy(shop):
    client, folder = shop
    with IndexWriter(folder / "index"):
        reply = client.delete("/items/item-1")
    assert code_of(reply) == (503, "index_busy")
    assert reply.headers["retry-after"]
    assert client.delete("/items/item-1").status_code == 200


def test_an_embedder_of_another_index_adds_nothing(shop, behind):
    client, folder = shop
    well, behind[1].embedder = behind[1].embedder, ColourEmbedder(fingerprint="0" * 16)
    try:
        assert code_of(client.put("/items/a", content=picture(100, folder))) == (503, "index_mismatch")
    finally:
        behind[1].embedder = well


def test_without_a_way_to_write_nothing_is_changed(tmp_path, behind, monkeypatch):
    # Root may write everywhere: the folder cannot be made unwritable for it.
    monkeypatch.setattr("lookalike.gateway.items.os.access", lambda path, mode: False)
    with gateway_over(tmp_path, behind) as client:
        assert code_of(client.delete("/items/a")) == (403, "forbidden")
        assert code_of(client.post("/snapshots", json={"name": "a"})) == (403, "forbidden")


def test_pages_stay_in_one_version(shop):
    client, _ = shop
    first = client.get("/items?limit=5").json()
    client.delete("/items/item-0")
    second = client.get("/items", params={"limit": 5, "cursor": first["next_cursor"]}).json()
    third = client.get("/items", params={"limit": 5, "cursor": second["next_cursor"]}).json()
    listed = [item["item_id"] for page in (first, second, third) for item in page["items"]]
    assert listed == [f"item-{number}" for number in range(12)]
    assert "next_cursor" not in third
    assert first["version"] == second["version"] != client.get("/items").json()["version"]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "limit=٣", "cursor=x", "cursor=WzEsMl0", "cursor=" + "W" * 9000, "page=1"],
)
def test_a_wrong_page_is_refused(shop, query):
    assert shop[0].get(f"/items?{query}").status_code in (422, 431)


def test_images_that_no_version_has_any_more_are_deleted(tmp_path, behind, monkeypatch):
    monkeypatch.setenv("LOOKALIKE_INDEX_KEEP_VERSIONS", "1")
    with gateway_over(tmp_path, behind) as client:
        client.put("/items/a", content=picture(1, tmp_path))
        client.put("/items/a", content=picture(2, tmp_path))
        client.put("/items/b", content=picture(3, tmp_path))
        kept = {client.get(f"/items/{item}").json()["content_sha256"] for item in "ab"}
        assert {path.name for path in (tmp_path / "index/images").iterdir()} == kept


# --- thumbnails


@pytest.mark.parametrize(("accept", "kind"), [("image/webp,*/*", "webp"), ("*/*", "jpeg")])
def test_a_thumbnail_is_small_and_of_a_kind_that_is_accepted(shop, accept, kind):
    client, folder = shop
    big = Image.open(folder / "photos/4.png").resize((900, 300))
    buffer = io.BytesIO()
    big.save(buffer, "PNG")
    client.put("/items/big", content=buffer.getvalue())
    reply = client.get("/items/big/thumbnail?edge=128", headers={"accept": accept})
    assert reply.headers["content-type"] == f"image/{kind}"
    assert Image.open(io.BytesIO(reply.content)).size == (128, 43)


def test_a_thumbnail_is_kept_and_known_by_its_etag(shop):
    client, folder = shop
    first = client.get("/items/item-1/thumbnail")
    (folder / "photos/1.png").unlink()
    second = client.get("/items/item-1/thumbnail")
    assert (second.content, second.headers["etag"]) == (first.content, first.headers["etag"])
    known = client.get("/items/item-1/thumbnail", headers={"if-none-match": first.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")
    assert 'lookalike_gateway_thumbnails_total{source="cache"} 1.0' in client.get("/metrics").text


def test_a_replaced_picture_has_another_etag(shop):
    client, folder = shop
    before = client.get("/items/item-1/thumbnail").headers["etag"]
    client.put("/items/item-1", content=picture(100, folder))
    assert client.get("/items/item-1/thumbnail", headers={"if-none-match": before}).status_code == 200


def test_a_picture_that_is_gone_changed_or_elsewhere_is_404(shop, tmp_path_factory):
    client, folder = shop
    (folder / "photos/1.png").unlink()
    save_picture(folder / "photos/2.png", 99)
    elsewhere = save_picture(tmp_path_factory.mktemp("secret") / "s.png", 3)
    (folder / "photos/3.png").unlink()
    (folder / "photos/3.png").symlink_to(elsewhere)
    for number in (1, 2, 3):
        assert code_of(client.get(f"/items/item-{number}/thumbnail")) == (404, "image_gone")
    assert code_of(client.get("/items/nobody/thumbnail")) == (404, "unknown_item")


def test_a_pipe_in_the_catalogue_blocks_nobody(shop):
    import os

    client, folder = shop
    (folder / "photos/1.png").unlink()
    os.mkfifo(folder / "photos/1.png")
    assert code_of(client.get("/items/item-1/thumbnail")) == (404, "image_gone")


def test_a_catalogue_outside_of_the_allowed_folders_shows_nothing(tmp_path, behind):
    IndexEditor(tmp_path / "index", IndexSettings()).build(catalogue_of(tmp_path / "photos", 2), ColourEmbedder())
    with gateway_over(tmp_path, behind, catalogue_roots=[tmp_path / "other"]) as client:
        assert code_of(client.get("/items/item-1/thumbnail")) == (404, "image_gone")


@pytest.mark.parametrize("query", ["edge=0", "edge=100", "edge=99999", "edge=a", "size=64"])
def test_a_wrong_edge_is_refused(shop, query):
    assert code_of(shop[0].get(f"/items/item-1/thumbnail?{query}")) == (422, "invalid_option")


def test_the_cache_keeps_within_its_bytes_and_over_a_restart(tmp_path, behind):
    IndexEditor(tmp_path / "index", IndexSettings()).build(catalogue_of(tmp_path / "photos", 12), ColourEmbedder())

    def size() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "cache").iterdir())

    for _ in range(2):
        with gateway_over(tmp_path, behind, cache_bytes=4000) as client:
            for number in range(12):
                assert client.get(f"/items/item-{number}/thumbnail").status_code == 200
                assert 0 < size() <= 4000


# --- snapshots


def test_a_snapshot_takes_an_index_back(shop):
    client, folder = shop
    client.put("/items/sent", content=picture(100, folder))
    made = client.post("/snapshots", json={"name": "before"}).json()
    assert client.get("/snapshots").json()["snapshots"] == [made]
    for item in ("sent", "item-1", "item-2", "item-3", "item-4"):  # until its version has left the disk
        client.delete(f"/items/{item}")
    assert made["version"] not in client.get("/index").json()["versions"]
    restored = client.post("/snapshots/before/restore").json()
    assert (restored["version"], restored["count"]) == (made["version"], 13)
    assert client.get("/items/sent/thumbnail").status_code == 200
    verify_snapshot(IndexView(folder / "index").layout.published_dir())
    assert client.delete("/snapshots/before").status_code == 204
    assert code_of(client.post("/snapshots/before/restore")) == (404, "unknown_path")


def test_a_snapshot_moves_to_another_machine_with_the_images_that_were_sent(shop, tmp_path_factory, behind):
    client, folder = shop
    client.put("/items/sent", content=picture(100, folder))
    client.post("/snapshots", json={"name": "all"})
    tar = client.get("/snapshots/all")
    assert tar.headers["content-type"] == "application/x-tar"
    with gateway_over(tmp_path_factory.mktemp("other"), behind) as other:
        assert other.put("/snapshots/all", content=tar.content).status_code == 201
        assert other.post("/snapshots/all/restore").json()["count"] == 13
        (folder / "index/images" / other.get("/items/sent").json()["content_sha256"]).unlink()
        assert other.get("/items/sent/thumbnail").status_code == 200


def tar_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("body", [b"", b"x" * 2000, tar_of(a=b"b"), tar_of(**{"manifest.json": b"{}"})])
def test_what_is_no_snapshot_is_not_taken(shop, body):
    client, folder = shop
    assert client.put("/snapshots/bad", content=body).status_code == 400
    assert client.get("/snapshots").json() == {"snapshots": []}
    assert not list((folder / "index/snapshots").iterdir())


def test_an_upload_must_name_its_size(shop):
    assert code_of(shop[0].put("/snapshots/a", content=iter([b"x"]))) == (411, "length_required")


@pytest.mark.parametrize(
    "name", ["versions/../../escaped", "/tmp/escaped", "images/" + "0" * 64, "images/../x", "vectors.npy/x", "other"]
)
def test_a_snapshot_with_foreign_or_damaged_parts_is_refused_and_nothing_changes(shop, name):
    client, folder = shop
    client.post("/snapshots", json={"name": "good"})
    version = client.delete("/items/item-1").json()["version"]
    with tarfile.open(folder / "index/snapshots/good.tar", "a") as tar:
        info = tarfile.TarInfo(name)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert code_of(client.post("/snapshots/good/restore")) == (503, "index_damaged")
    assert client.get("/index").json()["version"] == version
    assert not list(folder.rglob("escaped")) and not Path("/tmp/escaped").exists()


def test_a_snapshot_with_a_link_is_refused(shop):
    client, folder = shop
    client.post("/snapshots", json={"name": "good"})
    with tarfile.open(folder / "index/snapshots/good.tar", "a") as tar:
        info = tarfile.TarInfo("hnsw.faiss")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    assert code_of(client.post("/snapshots/good/restore")) == (503, "index_damaged")


def test_a_snapshot_with_a_changed_byte_is_refused(shop):
    client, folder = shop
    client.post("/snapshots", json={"name": "good"})
    for number in range(1, 5):
        version = client.delete(f"/items/item-{number}").json()["version"]
    path = folder / "index/snapshots/good.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        data[tar.getmember("vectors.npy").offset_data + 400] ^= 1
    path.write_bytes(data)
    assert code_of(client.post("/snapshots/good/restore")) == (503, "index_damaged")
    assert client.get("/index").json()["version"] == version


@pytest.mark.parametrize("name", ["..", ".hidden", "a b", "", "x" * 65, "a.tar"])
def test_a_snapshots_name_is_a_plain_word(shop, name):
    assert code_of(shop[0].post("/snapshots", json={"name": name})) == (422, "invalid_option")


def test_the_served_embedder_writes_into_the_same_indexes_as_the_local_one(behind):
    assert ServedEmbedder.preparation == WholeImageEmbedder.preparation
    with ServedEmbedder(behind[0]) as served:
        assert (served.fingerprint, served.dim) == (ColourEmbedder().fingerprint, ColourEmbedder.dim)
