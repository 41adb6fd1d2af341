"""What a hostile client sends to the gateway: refused, or harmless."""

import base64
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from lookalike.config import IndexSettings
from lookalike.gateway.keys import new_key
from lookalike.index.edits import IndexEditor
from tests.colour_embedder import ColourEmbedder, catalogue_of, save_picture
from tests.gateway_running import ColoursBehind, client_of, running_gateway, standing_behind

ADMIN, ADMIN_KEY = new_key("ops", "admin")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Path]]:
    """A gateway over an index of 6 items, and its folder."""
    folder = tmp_path_factory.mktemp("shop")
    IndexEditor(folder / "index", IndexSettings()).build(catalogue_of(folder / "photos", 6), ColourEmbedder())
    places = {"index_dir": folder / "index", "cache_dir": folder / "cache", "catalogue_roots": [folder / "photos"]}
    with (
        standing_behind(ColoursBehind()) as (behind, _),
        running_gateway(upstream_url=behind, keys=[ADMIN_KEY], edit_window_ms=1, rate="", **places) as url,
        client_of(url, ADMIN) as client,
    ):
        yield client, folder


def picture(folder: Path, seed: int = 100) -> str:
    return base64.b64encode(save_picture(folder / "sent.png", seed).read_bytes()).decode()


def code_of(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


# --- items: paths and words


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
def test_who_changes_a_thumbnail_does_not_change_its_item(shop, method):
    client, _ = shop
    before = client.get("/items/item-1").json()
    reply = client.request(method, "/items/item-1/thumbnail", json={"title": "T"})
    assert code_of(reply) == (405, "method_not_allowed")
    assert reply.headers["allow"] == "GET"
    assert client.get("/items/item-1").json() == before


@pytest.mark.parametrize(
    "body", [{"item_id": "item-2", "title": "T"}, {"title": 7}, {"attributes": [None]}, {"image": 7}]
)
def test_words_that_are_wrong_are_refused_whatever_the_query_says(shop, body):
    client, _ = shop
    query = {"title": "right", "attributes": '{"colour": "red"}'}
    assert code_of(client.put("/items/item-1", params=query, json=body)) == (422, "invalid_option")


@pytest.mark.parametrize(
    ("item_id", "status"),
    [
        ("a%00b", 422),
        ("%ff%fe", 400),
        ("%ed%a0%80", 400),  # a lone surrogate
        ("a%e2%80%aeb", 422),  # text that runs from right to left
        ("%0d%0aset-cookie:%20a=b", 404),
        ("", 400),
    ],
)
def test_an_id_that_no_log_or_page_could_show_is_refused(shop, item_id, status):
    client, folder = shop
    reply = client.put(f"/items/{item_id}", json={"image": picture(folder)})
    assert reply.status_code == status
    assert "set-cookie" not in reply.headers


@pytest.mark.parametrize(
    "words",
    [
        {"title": "x" * 2001},
        {"title": "\ud800"},
        {"url": "https://a/" + "x" * 2048},
        {"url": "data:text/html,<script>"},
        {"url": "https:javascript:alert(1)"},
        {"attributes": {f"a{i}": "x" for i in range(65)}},
        {"attributes": {"colour": "x" * 2001}},
        {"attributes": {"colour": "\udfff"}},
        {"attributes": {"c" * 129: "x"}},
        {"attributes": {"": "x"}},
        {"attributes": {"a\nb": "x"}},
        {"attributes": {"colour": {"deep": "er"}}},
    ],
    ids=lambda words: json.dumps(words)[:40],
)
def test_words_beyond_their_bounds_are_refused_by_name(shop, words):
    client, folder = shop
    # Not by the client's own encoder, which takes no lone surrogates.
    body = json.dumps({**words, "image": picture(folder)})
    reply = client.put("/items/bounds", content=body, headers={"content-type": "application/json"})
    assert code_of(reply) == (422, "invalid_option")
    assert next(iter(words)) in reply.json()["error"]["message"]
    assert client.get("/items/bounds").status_code == 404


@pytest.mark.parametrize("word", ["<img src=x onerror=alert(1)>", "\x00\x1b[2J\x07", "'; DROP TABLE items; --", "=1+1"])
def test_words_that_harm_elsewhere_are_kept_as_they_are(shop, word):
    client, folder = shop
    words = {"title": word, "attributes": {"colour": word}}
    assert client.put("/items/odd", json={**words, "image": picture(folder)}).status_code in (200, 201)
    seen = client.get("/items/odd")
    assert {name: seen.json()[name] for name in words} == words
    assert (seen.headers["content-type"], seen.headers["x-content-type-options"]) == ("application/json", "nosniff")


DEEP = "[" * 100_000
UNREASONABLE = [
    DEEP,
    '{"a":' * 100_000,
    f'{{"attributes": {DEEP}',
    f'{{"title": {"9" * 100_000}}}',
    '{"a": NaN}',
    "\ufeff{}",
]


@pytest.mark.parametrize("body", UNREASONABLE, ids=lambda body: body[:12])
@pytest.mark.parametrize(("method", "path"), [("PUT", "/items/a"), ("POST", "/items/batch"), ("POST", "/snapshots")])
def test_json_beyond_reason_is_refused(shop, method, path, body):
    client, _ = shop
    reply = client.request(method, path, content=body.encode(), headers={"content-type": "application/json"})
    assert reply.status_code in (400, 413, 422)


@pytest.mark.parametrize("row", [10**30, 10**18, -1, True, 1.5, "0"])
def test_a_cursor_that_was_made_up_is_refused_or_at_the_end(shop, row):
    client, _ = shop
    version = client.get("/items?limit=1").json()["version"]
    cursor = base64.urlsafe_b64encode(json.dumps([version, row]).encode()).decode()
    reply = client.get("/items", params={"cursor": cursor})
    assert reply.status_code == 422 or reply.json()["items"] == []


def test_a_flood_of_unknown_fields_is_refused_soon_and_in_few_words(shop):
    client, _ = shop
    body = {f"field-{i}": 1 for i in range(200_000)}
    start_s = time.monotonic()
    reply = client.put("/items/a", json=body)
    assert code_of(reply) == (422, "invalid_option")
    assert len(reply.content) < 4000
    assert time.monotonic() - start_s < 15  # each error that pydantic tells costs a kilobyte


@pytest.mark.parametrize("name", ["../../x.png", "/etc/passwd", "a\x00b", "..\\..\\x", "x" * 5000, "\u202egnp.exe"])
def test_the_name_of_a_file_that_is_sent_is_of_no_use(shop, name):
    client, folder = shop
    before = {path for path in folder.rglob("*") if not {"index", "cache"} & set(path.parts)}
    data = base64.b64decode(picture(folder))
    reply = client.put("/items/named", files={"image": (name, data, "image/png")})
    assert reply.status_code in (200, 201, 400)
    assert {path for path in folder.rglob("*") if not {"index", "cache"} & set(path.parts)} <= before | {
        folder / "sent.png"
    }


# --- connections


@contextmanager
def half_requests(url: str, count: int) -> Iterator[list[socket.socket]]:
    """Hold `count` connections that began a request and say no more."""
    parts = urlsplit(url)
    with contextlib.ExitStack() as stack:
        held = []
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=20))
            connection.sendall(b"POST /predictions/search HTTP/1.1\r\nhost: a\r\nx-slow: ")
            held.append(connection)
        yield held


def test_hundreds_of_clients_that_say_nothing_keep_nobody_waiting_and_are_let_go():
    with (
        standing_behind() as (behind, _),
        running_gateway(upstream_url=behind, header_timeout_s=2) as url,
        client_of(url) as client,
        half_requests(url, 400) as held,
    ):
        client.get("/livez")
        start_s = time.monotonic()
        assert client.post("/predictions/search", content=b"img").status_code == 200
        served_s = time.monotonic() - start_s
        answers = [connection.recv(4096) for connection in held]
    print(f"\n400 slow clients: an honest one is answered in {served_s * 1000:.0f} ms")
    assert served_s < 1
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers)


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: -1\r\n",
        b"content-length: +5\r\n",
        b"transfer-encoding: gzip, chunked, identity\r\n",
        b"transfer-encoding : chunked\r\n",
    ],
)
def test_a_request_whose_end_two_servers_could_see_in_two_places_is_refused(head):
    with standing_behind() as (behind, server), running_gateway(upstream_url=behind) as url:
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
            connection.sendall(
                b"POST /predictions/search HTTP/1.1\r\nhost: a\r\n" + head + b"\r\n0\r\n\r\nGET /x HTTP/1.1\r\n"
            )
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 400")
        assert [path for path, _, _ in server.requests] == []
