"""The Python clients: what they send, when they send it again, what they raise. Each test runs on both of them."""

import asyncio
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from typer.testing import CliRunner

from lookalike import errors
from lookalike.cli import app as cli
from lookalike.cli import main
from lookalike.client import AsyncClient, Client
from lookalike.client.images import cut, shrunk
from lookalike.gateway.openapi_examples import EXAMPLES
from lookalike.rows import FINGERPRINT_HEADER, NPY_TYPE, npy_bytes
from tests.gateway_running import Behind, standing_behind

Call = Callable[..., Any]


class Blocking:
    """Drives `Client`."""

    def __init__(self, url: str, **given: Any) -> None:
        self._client = Client(url, **given)

    def __call__(self, name: str, *arguments: Any, **options: Any) -> Any:
        with self._client as client:
            return getattr(client, name)(*arguments, **options)


class Asynchronous:
    """Drives `AsyncClient`."""

    def __init__(self, url: str, **given: Any) -> None:
        self._url, self._given = url, given

    def __call__(self, name: str, *arguments: Any, **options: Any) -> Any:
        async def call() -> Any:
            async with AsyncClient(self._url, **self._given) as client:
                return await getattr(client, name)(*arguments, **options)

        return asyncio.run(call())


@pytest.fixture(scope="module")
def behind() -> Iterator[tuple[str, Behind]]:
    """A service that answers every call well, unless a test says otherwise."""
    with standing_behind() as running:
        yield running


@pytest.fixture(params=[Blocking, Asynchronous])
def service(request: pytest.FixtureRequest, behind: tuple[str, Behind]) -> Iterator[tuple[Call, Behind]]:
    """Make a client of one kind, and name the service."""
    url, server = behind
    server.requests.clear()
    well = server.answer
    yield lambda **given: request.param(url, **given), server
    server.answer = well


def answers(*given: tuple[int, dict[str, str], bytes]):
    """Answer with each in turn, and with the last for ever."""
    left = list(given)

    async def answer(request: Request) -> Response:
        status, headers, body = left.pop(0) if len(left) > 1 else left[0]
        return Response(body, status, {"content-type": "application/json", **headers})

    return answer


def error(code: str, **more: Any) -> bytes:
    return json.dumps({"error": {"code": code, "message": "told", **more}, "request_id": "r-1"}).encode()


WELL = (200, {}, json.dumps(EXAMPLES["SearchResponse"]).encode())
BUSY = (503, {"retry-after": "1"}, error("overloaded"))


def photo(width: int = 900, height: int = 600) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_search_sends_the_image_the_options_and_the_key(service):
    client, server = service
    found = client(api_key="lk_k")(
        "search", b"img", top_k=3, filters={"farbe": ["grün"]}, attributes=False, box=(1, 2, 3, 4), request_id="mine"
    )
    path, headers, body = server.requests[-1]
    assert (path, body) == ("/predictions/search", b"img")
    assert headers["x-api-key"] == "lk_k"
    assert headers["x-request-id"] == "mine"
    assert headers["x-lookalike-top-k"] == "3"
    assert headers["x-lookalike-attributes"] == "false"
    assert json.loads(headers["x-lookalike-filters"]) == {"farbe": ["grün"]}
    assert json.loads(headers["x-lookalike-box"]) == [1, 2, 3, 4]
    assert 0 < float(headers["x-lookalike-deadline-ms"]) <= 30_000
    assert found.hits[0].item_id == "animals/cat.png"


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "pil"])
def test_an_image_comes_in_every_form(service, tmp_path, kind):
    client, server = service
    path = tmp_path / "a.jpg"
    photo().save(path, quality=90)
    given = {"path": path, "text": str(path), "bytes": path.read_bytes(), "pil": photo()}[kind]
    client()("search", given)
    assert Image.open(io.BytesIO(server.requests[-1][2])).size == (900, 600)


def test_the_other_calls(service):
    client, server = service
    assert client()("detect", b"img", max_detections=1).detections[0].label == "subject"
    assert client()("describe", b"img")[0].attributes[0].name == "articleType"
    assert client()("thumbnail", "a/b ?", 64) == b"{}"
    assert server.requests[-1][0] == "/items/a/b ?/thumbnail"
    client()("describe", b"a", b"b")
    assert json.loads(server.requests[-1][2]) == {"images": ["YQ==", "Yg=="]}


def test_embeddings_come_as_an_array(service):
    client, server = service
    array = np.eye(2, 5, dtype=np.float32)
    server.answer = answers((200, {"content-type": NPY_TYPE, FINGERPRINT_HEADER: "f" * 16}, npy_bytes(array)))
    found = client()("embed", b"img", b"img")
    assert np.array_equal(found.embeddings, array)
    assert (found.embeddings.dtype, found.fingerprint) == (np.float32, "f" * 16)


def test_two_trips_send_a_small_copy_and_then_the_crop_of_the_original(service):
    client, server = service
    detected = {
        "detections": [{"box": [64, 64, 320, 256], "score": 0.9, "label": "a"}],
        "image": {"width": 640, "height": 427, "format": "JPEG"},
    }

    async def answer(request: Request) -> Response:
        told = detected if request.url.path == "/predictions/detector" else EXAMPLES["SearchResponse"]
        return Response(json.dumps(told), media_type="application/json")

    server.answer = answer
    original = photo(3000, 2000)
    buffer = io.BytesIO()
    original.save(buffer, "PNG")
    trip = client()("two_trip", buffer.getvalue(), top_k=4)
    (_, _, first), (_, headers, second) = server.requests
    assert Image.open(io.BytesIO(first)).size == (640, 427)
    assert Image.open(io.BytesIO(second)).size == (640, 480)  # 1200 x 900 of the original, scaled to fit
    assert trip.box == (300, 300, 1500, 1200)
    assert (headers["x-lookalike-crop"], headers["x-lookalike-top-k"]) == ("none", "4")
    assert trip.sent_bytes == len(first) + len(second) < len(buffer.getvalue()) / 10


def test_two_trips_without_a_detection_search_the_whole_image(service):
    client, server = service
    nothing = {"detections": [], "image": {"width": 640, "height": 427, "format": "JPEG"}}
    server.answer = answers((200, {}, json.dumps(nothing).encode()), WELL)
    trip = client()("two_trip", photo())
    assert trip.box is None
    assert Image.open(io.BytesIO(server.requests[-1][2])).size == (640, 427)


def test_a_crop_is_cut_in_whole_pixels_and_inside_of_the_image():
    crop, box = cut(photo(1000, 400), (-3.0, 10.3, 70.0, 60.0), 0.125)
    assert (box, crop.size) == ((0, 82, 560, 400), (560, 318))
    assert shrunk(photo(100, 50), 640).size == (100, 50)  # never larger


def test_a_busy_service_is_asked_again_after_the_pause_that_it_names(service):
    client, server = service
    server.answer = answers(BUSY, WELL)
    start_s = time.monotonic()
    assert client()("search", b"img").request_id
    assert time.monotonic() - start_s >= 1
    assert len(server.requests) == 2


def test_without_a_named_pause_it_waits_a_moment(service):
    client, server = service
    server.answer = answers((503, {}, error("not_ready")), (429, {}, error("rate_limited")), WELL)
    start_s = time.monotonic()
    client()("search", b"img")
    assert 0.15 <= time.monotonic() - start_s < 2
    assert len(server.requests) == 3


def test_it_gives_up_after_its_attempts(service):
    client, server = service
    server.answer = answers((503, {}, error("model_failed")))
    with pytest.raises(errors.ModelFailed):
        client(retries=1)("search", b"img")
    assert len(server.requests) == 2


def test_a_pause_beyond_the_deadline_is_not_waited_for(service):
    client, server = service
    server.answer = answers((429, {"retry-after": "30"}, error("rate_limited")))
    start_s = time.monotonic()
    with pytest.raises(errors.RateLimited):
        client(timeout_s=2)("search", b"img")
    assert time.monotonic() - start_s < 1
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_request", errors.InvalidRequest),
        (401, "unauthorized", errors.Unauthorized),
        (413, "image_too_large", errors.ImageTooLarge),
        (415, "unsupported_image", errors.UnsupportedImage),
        (422, "invalid_option", errors.InvalidOption),
        (504, "deadline_exceeded", errors.DeadlineExceeded),
        (500, "internal_error", errors.LookalikeError),
    ],
)
def test_an_error_is_raised_by_its_code_and_not_sent_again(service, status, code, kind):
    client, server = service
    server.answer = answers((status, {}, error(code, allowed=["a"])))
    with pytest.raises(kind) as raised:
        client()("search", b"img")
    assert (type(raised.value), raised.value.message, raised.value.allowed) == (kind, "told", ["a"])
    assert raised.value.request_id == "r-1"
    assert len(server.requests) == 1


def test_an_error_in_another_form_or_of_an_unknown_code_is_one_of_its_status(service):
    client, server = service
    server.answer = answers((413, {}, b"<html>"))
    with pytest.raises(errors.ImageTooLarge):
        client()("search", b"img")
    server.answer = answers((422, {}, error("from_the_future")))
    with pytest.raises(errors.RequestError, match="told"):
        client()("search", b"img")


def test_an_answer_of_a_newer_server_is_read_and_one_of_no_server_is_not(service):
    client, server = service
    server.answer = answers((200, {}, json.dumps({**EXAMPLES["SearchResponse"], "news": 1}).encode()))
    assert client()("search", b"img").hits
    server.answer = answers((200, {}, b"<html>"))
    with pytest.raises(errors.ModelFailed):
        client()("search", b"img")


def test_a_service_that_is_too_slow_is_given_up_in_time(service):
    client, server = service

    async def slow(request: Request) -> Response:
        await asyncio.sleep(2)
        return Response(b"{}")

    server.answer = slow
    start_s = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded):
        client(timeout_s=0.5)("search", b"img")
    assert time.monotonic() - start_s < 1.5


@pytest.mark.parametrize("kind", [Blocking, Asynchronous])
def test_a_service_that_is_not_there_is_told(kind):
    with pytest.raises(errors.ModelUnavailable, match=r"127\.0\.0\.1:9"):
        kind("http://127.0.0.1:9", retries=1)("search", b"img")


@pytest.mark.parametrize("options", [{"top_k": 0}, {"topk": 3}, {"crop": "all"}, {"box": (3, 3, 1, 1)}])
def test_a_wrong_option_is_told_before_anything_is_sent(service, options):
    client, server = service
    with pytest.raises(errors.InvalidOption):
        client()("search", b"img", **options)
    assert server.requests == []


def test_a_file_that_is_not_there_is_an_os_error(service):
    with pytest.raises(FileNotFoundError):
        service[0]()("search", "nowhere.jpg")


def test_the_client_needs_none_of_the_models_libraries():
    heavy = ("torch", "faiss", "onnxruntime", "openvino", "ts", "starlette", "uvicorn")
    code = f"import sys, lookalike.client; sys.exit(', '.join(m for m in {heavy} if m in sys.modules) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- lookalike search


@pytest.fixture
def photo_file(tmp_path):
    """A photo on the disk."""
    path = tmp_path / "photo.jpg"
    photo().save(path)
    return path


def test_search_prints_json(behind, photo_file):
    done = CliRunner().invoke(cli, ["search", str(photo_file), "--url", behind[0], "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["hits"] == EXAMPLES["SearchResponse"]["hits"]


def test_search_prints_a_table_in_which_hostile_words_are_harmless(behind, photo_file):
    url, server = behind
    hit = {
        "item_id": "[bold]x",
        "similarity": 0.5,
        "title": "\x1b]0;owned\x07[link=http://x]y\r\u202e",
        "attributes": {"a\x1b[2J": "b"},
    }
    well, server.answer = (
        server.answer,
        answers((200, {}, json.dumps({**EXAMPLES["SearchResponse"], "hits": [hit]}).encode())),
    )
    done = CliRunner().invoke(cli, ["search", str(photo_file), "--url", url], env={"COLUMNS": "200"})
    server.answer = well
    assert done.exit_code == 0
    assert "[bold]x" in done.stdout and "[link=http://x]y" in done.stdout
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["{photo}", "--url", "{url}"], 0),
        (["{photo}", "--url", "http://127.0.0.1:9"], 1),
        (["{photo}", "--url", "{url}", "--filter", "x"], 1),
        (["nowhere.jpg"], 2),
        (["{photo}", "--top-k", "0"], 2),
        ([], 2),
    ],
)
def test_search_ends_with_0_1_or_2(behind, photo_file, monkeypatch, capsys, arguments, status):
    filled = [argument.format(photo=photo_file, url=behind[0]) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["lookalike", "search", *filled])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == status
    assert status == 0 or capsys.readouterr().err
