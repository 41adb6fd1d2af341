"""image_url: real servers on this machine, and a resolver that the test answers for."""

import asyncio
import base64
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from lookalike.errors import DeadlineExceeded, ImageTooLarge, ImageUrlFailed, ImageUrlRefused, LookalikeError
from lookalike.gateway.app import create_app
from lookalike.gateway.image_url import ImageFetcher
from lookalike.gateway.metrics import GatewayMetrics
from lookalike.gateway.protocol import server_options
from lookalike.gateway.settings import GatewaySettings
from tests.gateway_running import Behind, client_of, in_thread, standing_behind

IMAGE = base64.b64decode("R0lGODlhAQABAIAAAP8AAP///yH5BAAAAAAALAAAAAABAAEAAAICRAEAOw==")
ALLOWED, FORBIDDEN = "127.0.0.1", "127.0.0.2"  # both are this machine; only the first is allowed by the tests' settings


class ImageServer(Behind):
    """A web server with an image, and with all that a hostile one does."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = self._answer
        self.port = 0

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        if path == "/image.gif":
            return Response(IMAGE, media_type="image/gif")
        if path == "/to-forbidden":
            return RedirectResponse(f"http://{FORBIDDEN}:{self.port}/image.gif")
        if path == "/to-name":
            return RedirectResponse(f"http://inside.example:{self.port}/image.gif")
        if path == "/to-file":
            return RedirectResponse("file:///etc/passwd")
        if path == "/to-image":
            return RedirectResponse("/image.gif")
        if path == "/for-ever":
            return RedirectResponse("/for-ever")
        if path == "/endless":
            return StreamingResponse(_for_ever(b"x" * 10_000, 0), media_type="image/gif")
        if path == "/slow":
            return StreamingResponse(_for_ever(b"x", 0.2), media_type="image/gif")
        if path == "/packed":
            return Response(b"\x1f\x8b" + IMAGE, headers={"content-encoding": "gzip"}, media_type="image/gif")
        return Response(b"secret", 404)


async def _for_ever(part: bytes, every_s: float):
    while True:
        yield part
        await asyncio.sleep(every_s)


@pytest.fixture(scope="module")
def web() -> Iterator[ImageServer]:
    """The web server, on every address of the loopback network."""
    server = ImageServer()
    config = uvicorn.Config(
        server, host="0.0.0.0", port=0, lifespan="off", log_config=None, access_log=False, ws="none"
    )
    with in_thread(uvicorn.Server(config)) as url:
        server.port = int(url.rsplit(":", 1)[1])
        yield server


@pytest.fixture(autouse=True)
def _nothing_asked(web):
    web.requests.clear()


def settings_for(web: ImageServer, **given) -> GatewaySettings:
    settings = {
        "image_url": True,
        "image_url_ports": [80, 443, web.port],
        "image_url_networks": [f"{ALLOWED}/32"],
        "image_url_timeout_s": 1,
        "limits": {"max_bytes": 100_000},
    }
    return GatewaySettings(**{**settings, **given})


class Names:
    """A resolver: answers each name with the next of its addresses, and counts how often it is asked."""

    def __init__(self, **addresses: list[list[str]]) -> None:
        self.addresses, self.asked = addresses, 0

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        answers = self.addresses[host.split(".")[0]]
        return answers.pop(0) if len(answers) > 1 else answers[0]


async def fetched(url: str, settings: GatewaySettings, names: Names | None = None) -> bytes:
    fetcher = ImageFetcher(settings, names) if names else ImageFetcher(settings)
    try:
        return await fetcher.fetch(url)
    finally:
        await fetcher.close()


async def test_an_image_is_fetched(web):
    assert await fetched(f"http://{ALLOWED}:{web.port}/image.gif", settings_for(web)) == IMAGE
    assert await fetched(f"http://{ALLOWED}:{web.port}/to-image", settings_for(web)) == IMAGE
    assert (
        await fetched(f"http://photos.example:{web.port}/image.gif", settings_for(web), Names(photos=[[ALLOWED]]))
        == IMAGE
    )


@pytest.mark.parametrize(
    "host",
    [
        FORBIDDEN,
        "localhost",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.2]",
        "[::ffff:7f00:2]",
        "[64:ff9b::7f00:2]",
        "[2002:7f00:2::1]",
        "2130706434",
        "0x7f000002",
        "0177.0.0.2",
        "127.2",
        "127.0.0.2.",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[fe80::1]",
        "[fd00::1]",
        "[ff02::1]",
    ],
)
async def test_no_address_that_is_not_public_is_asked(web, host):
    with pytest.raises((ImageUrlRefused, ImageUrlFailed)):
        await fetched(f"http://{host}:{web.port}/image.gif", settings_for(web, image_url_networks=["127.0.0.9/32"]))
    assert web.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/a",
        "gopher://example.org/",
        "//example.org/a",
        "http://",
        "http://a:b@example.org/",
        "http://example.org:22/",
        "http://example.org:99999/",
        "http://[::1",
        "not a url",
        "",
        "http://example.org/" + "a" * 3000,
    ],
)
async def test_what_is_no_plain_web_address_is_refused(web, url):
    with pytest.raises(ImageUrlRefused):
        await fetched(url, settings_for(web))


@pytest.mark.parametrize("path", ["/to-forbidden", "/to-name", "/to-file", "/for-ever"])
async def test_a_redirect_is_checked_like_the_first_address(web, path):
    names = Names(photos=[[ALLOWED]], inside=[[FORBIDDEN]])
    with pytest.raises(ImageUrlRefused):
        await fetched(f"http://photos.example:{web.port}{path}", settings_for(web), names)
    assert not [path for path, _, _ in web.requests if path == "/image.gif"]


async def test_a_name_with_one_address_inside_is_refused_wholly(web):
    with pytest.raises(ImageUrlRefused):
        await fetched(
            f"http://photos.example:{web.port}/image.gif", settings_for(web), Names(photos=[[ALLOWED, FORBIDDEN]])
        )
    assert web.requests == []


async def test_a_name_that_changes_its_mind_is_asked_once_and_reached_where_it_was_checked(web):
    names = Names(photos=[[ALLOWED], [FORBIDDEN]])
    assert await fetched(f"http://photos.example:{web.port}/image.gif", settings_for(web), names) == IMAGE
    assert names.asked == 1
    with pytest.raises(ImageUrlRefused):  # the next request asks anew
        await fetched(f"http://photos.example:{web.port}/image.gif", settings_for(web), names)


async def test_a_redirect_to_the_same_name_asks_and_checks_anew(web):
    names = Names(photos=[[ALLOWED], [FORBIDDEN]])
    with pytest.raises(ImageUrlRefused):
        await fetched(f"http://photos.example:{web.port}/to-image", settings_for(web), names)
    assert names.asked == 2


@pytest.mark.parametrize(
    ("path", "error"),
    [("/endless", ImageTooLarge), ("/slow", DeadlineExceeded), ("/nothing", ImageUrlFailed)],
)
async def test_size_time_and_status_are_limited(web, path, error):
    start_s = time.monotonic()
    with pytest.raises(error):
        await fetched(f"http://{ALLOWED}:{web.port}{path}", settings_for(web))
    assert time.monotonic() - start_s < 3


async def test_a_server_that_takes_the_connection_and_says_nothing_ends_in_time(web):
    with socket.socket() as silent:
        silent.bind((ALLOWED, 0))
        silent.listen()
        port = silent.getsockname()[1]
        with pytest.raises(DeadlineExceeded):
            await fetched(f"http://{ALLOWED}:{port}/", settings_for(web, image_url_ports=[port]))


async def test_a_packed_body_is_not_unpacked(web):
    assert (await fetched(f"http://{ALLOWED}:{web.port}/packed", settings_for(web))).startswith(b"\x1f\x8b")


@pytest.mark.parametrize("broken", [b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nabc", b"SSH-2.0-OpenSSH\r\n"])
async def test_a_server_that_speaks_no_http_is_a_failure_without_its_words(web, broken):
    with one_answer(broken) as port, pytest.raises(ImageUrlFailed) as failed:
        await fetched(f"http://{ALLOWED}:{port}/", settings_for(web, image_url_ports=[port]))
    assert "SSH" not in failed.value.message


@contextlib.contextmanager
def one_answer(answer: bytes) -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind((ALLOWED, 0))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(5)


@pytest.fixture
def gateway(web):
    """A gateway that fetches, and the server behind it."""
    with standing_behind() as (behind_url, behind):
        settings = settings_for(web, upstream_url=behind_url, port=0, max_body_bytes=1_000_000)
        server = uvicorn.Server(uvicorn.Config(create_app(settings, GatewayMetrics()), port=0, **server_options()))
        with in_thread(server) as url, client_of(url) as client:
            yield client, behind


def test_a_json_body_names_the_image_and_its_options_go_along(gateway, web):
    client, behind = gateway
    url = f"http://{ALLOWED}:{web.port}/image.gif"
    options = {"top_k": 3, "filters": {"farbe": ["grün"]}, "attributes": False, "box": [1, 2, 3, 4]}
    assert client.post("/predictions/search", json={"image_url": url, **options}).status_code == 200
    _, headers, body = behind.requests[-1]
    assert (body, headers["content-type"]) == (IMAGE, "application/octet-stream")
    assert headers["x-lookalike-top-k"] == "3"
    assert headers["x-lookalike-attributes"] == "false"
    assert headers["x-lookalike-filters"] == '{"farbe": ["gr\\u00fcn"]}'


def test_the_query_string_may_name_the_image(gateway, web):
    client, behind = gateway
    url = f"http://{ALLOWED}:{web.port}/image.gif"
    assert client.post("/predictions/search", params={"image_url": url, "top_k": 3}).status_code == 200
    assert behind.requests[-1][2] == IMAGE


@pytest.mark.parametrize("body", [{"image": "aGk=", "top_k": 3}, {"image": "a" * 200_000}, [1], "image_url"])
def test_other_json_bodies_pass_untouched(gateway, body):
    client, behind = gateway
    sent = httpx.Request("POST", "http://a", json=body).read()
    client.post("/predictions/search", content=sent, headers={"content-type": "application/json"})
    assert behind.requests[-1][2] == sent


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"image_url": 7}, "invalid_request"),
        ({"image_url": "http://a", "image": "aGk="}, "invalid_request"),
        ({"image_url": f"http://{FORBIDDEN}/"}, "image_url_refused"),
        ({"image_url": "http://{host}/image.gif", "topk": 3}, "invalid_option"),
    ],
)
def test_a_wrong_image_url_is_told_in_the_projects_form(gateway, web, body, code):
    client, behind = gateway
    if isinstance(body["image_url"], str):
        body = {**body, "image_url": body["image_url"].replace("{host}", f"{ALLOWED}:{web.port}")}
    assert client.post("/predictions/search", json=body).json()["error"]["code"] == code
    assert behind.requests == []


def test_a_refusal_does_not_say_which_address_it_was(gateway, web):
    client, _ = gateway
    told = {
        client.post("/predictions/search", json={"image_url": f"http://{host}:{web.port}/"}).json()["error"]["message"]
        for host in (FORBIDDEN, "10.0.0.1", "169.254.169.254", "[::1]")
    }
    assert len(told) == 1  # nobody learns which addresses there are


def test_the_errors_are_requests_errors():
    assert {kind.status for kind in (ImageUrlRefused, ImageUrlFailed)} == {422}
    assert issubclass(ImageUrlRefused, LookalikeError)
