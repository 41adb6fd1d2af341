"""What the gateway passes on, and what it makes of the answers."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from tests.gateway_running import client_of, running_gateway, standing_behind


@pytest.fixture(scope="module")
def world():
    """A gateway with short limits, and the server behind it."""
    limits = {
        "max_body_bytes": 1_000_000,
        "deadline_ms": 600,
        "rate": "",
        "chunk_timeout_s": 0.4,
        "header_timeout_s": 0.5,
    }
    with (
        standing_behind() as (behind_url, behind),
        running_gateway(upstream_url=behind_url, **limits) as url,
        client_of(url) as client,
    ):
        yield client, behind


@pytest.fixture
def gateway(world):
    _, behind = world
    behind.requests.clear()
    well = behind.answer
    yield world
    behind.answer = well


def answering(status: int, body: bytes, **headers: str):
    async def answer(request: Request) -> Response:
        return Response(body, status, headers)

    return answer


def test_options_of_the_query_string_become_headers(gateway):
    client, behind = gateway
    query = {"top_k": "3", "box": "1,2,3,4", "filters": '{"farbe": ["grün"]}', "deadline_ms": "800", "like": '["a"]'}
    client.post("/predictions/search", params=query, content=b"img")
    _, headers, body = behind.requests[-1]
    assert headers["x-lookalike-top-k"] == "3"
    assert json.loads(headers["x-lookalike-box"]) == [1, 2, 3, 4]
    assert json.loads(headers["x-lookalike-filters"]) == {"farbe": ["grün"]}
    assert json.loads(headers["x-lookalike-like"]) == ["a"]
    assert headers["x-lookalike-deadline-ms"] == "800"
    assert body == b"img"


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("top_kk=3", "top_kk"),
        ("min_score=0.2", "min_score"),
        ("top_k=3&top_k=4", "twice"),
        ("filters={", "filters"),
        ("crop=%00", "crop"),
        ("crop=%C3%A9", "crop"),
        ("crop=%FF", "query"),
        ("image_url=http://example.org/", "switched off"),
    ],
)
def test_a_wrong_option_is_refused_by_name_and_nothing_is_sent_on(gateway, query, word):
    client, behind = gateway
    reply = client.post(f"/predictions/search?{query}", content=b"img")
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "invalid_option")
    assert word in reply.json()["error"]["message"]
    assert behind.requests == []


def test_an_image_sent_as_a_form_by_curl_is_taken_for_what_it_is(gateway):
    client, behind = gateway
    client.post("/predictions/detector", content=b"img", headers={"content-type": "application/x-www-form-urlencoded"})
    assert behind.requests[-1][1]["content-type"] == "application/octet-stream"


def test_only_known_headers_are_passed_on(gateway):
    client, behind = gateway
    sent = {
        "url_path": "healthz",
        "x-lookalike-path": "info",
        "x-lookalike-top-k": "4",
        "cookie": "a=b",
        "proxy-authorization": "Basic eA==",
        "x-forwarded-for": "1.2.3.4",
    }
    client.post("/predictions/search", content=b"img", headers=sent)
    headers = behind.requests[-1][1]
    assert headers["x-lookalike-top-k"] == "4"
    assert not {"url_path", "x-lookalike-path", "cookie", "proxy-authorization", "x-forwarded-for"} & set(headers)


def test_a_requests_id_goes_through_and_comes_back(gateway):
    client, behind = gateway
    reply = client.post("/predictions/search", content=b"img", headers={"x-request-id": "my-id"})
    assert behind.requests[-1][1]["x-request-id"] == "my-id"
    assert reply.headers["x-request-id"] == reply.headers["x-lookalike-request-id"] == "my-id"


@pytest.mark.parametrize("bad", ["a\tb", "x" * 129, "é"])
def test_an_id_that_could_break_a_log_line_is_replaced(gateway, bad):
    client, behind = gateway
    reply = client.post("/predictions/search", content=b"img", headers={"x-request-id": bad.encode()})
    assert reply.headers["x-request-id"] == behind.requests[-1][1]["x-request-id"] != bad


@pytest.mark.parametrize(
    ("status", "body", "told", "code"),
    [
        (
            503,
            b'{"code": 503, "type": "ServiceUnavailableException", "message": "no worker 10.0.0.7"}',
            503,
            "overloaded",
        ),
        (500, b'{"code": 500, "type": "InternalServerException", "message": "Worker died."}', 503, "model_failed"),
        (500, b'{"code": 500, "type": "ErrorDataDecoderException", "message": "10.0.0.7"}', 400, "invalid_request"),
        (507, b"<html>10.0.0.7</html>", 503, "model_failed"),
        (413, b"", 413, "image_too_large"),
        (404, b'{"code": 404, "type": "ModelNotFoundException", "message": "10.0.0.7"}', 404, "unknown_path"),
        (405, b'{"code": 405, "type": "MethodNotAllowedException"}', 405, "method_not_allowed"),
        (400, b"[]", 400, "invalid_request"),
        (502, b'{"error": "10.0.0.7"}', 503, "model_failed"),
    ],
)
def test_answers_in_other_forms_are_told_in_the_projects_and_leak_no_address(gateway, status, body, told, code):
    client, behind = gateway
    behind.answer = answering(status, body)
    reply = client.post("/predictions/search", content=b"img")
    assert (reply.status_code, reply.json()["error"]["code"]) == (told, code)
    assert "10.0.0.7" not in reply.text
    assert ("retry-after" in reply.headers) == (told == 503)


def test_an_error_in_the_projects_form_passes_as_it_is(gateway):
    client, behind = gateway
    body = b'{"error": {"code": "corrupt_image", "message": "cut"}, "request_id": "a"}'
    behind.answer = answering(422, body, **{"content-type": "application/json"})
    reply = client.post("/predictions/search", content=b"img")
    assert (reply.status_code, reply.content) == (422, body)


def test_a_server_that_is_not_there_is_503_without_its_address():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    with running_gateway(upstream_url=f"http://{address}") as url, client_of(url) as client:
        reply = client.post("/predictions/search", content=b"img")
        health = client.get("/healthz")
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_unavailable")
    assert reply.headers["retry-after"] == "2"
    assert health.status_code == 503
    assert address not in reply.text + health.text


def test_a_server_that_does_not_answer_in_time_is_504(gateway):
    client, behind = gateway

    async def slow(request: Request) -> Response:
        await asyncio.sleep(1.5)
        return Response(b"{}")

    behind.answer = slow
    reply = client.post("/predictions/search", content=b"img")
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert reply.elapsed.total_seconds() < 1.2


def test_a_server_that_takes_too_long_to_say_that_it_is_ready_is_not(tmp_path):
    async def slow(request: Request) -> Response:
        await asyncio.sleep(1)
        return Response(b'{"ready": true}')

    with standing_behind() as (upstream, behind):
        behind.answer = slow
        with running_gateway(upstream_url=upstream, index_dir=tmp_path, health_timeout_s=0.3) as url:
            reply = httpx.get(f"{url}/healthz", timeout=10)
            assert (reply.status_code, reply.json()["ready"]) == (503, False)
            assert "did not answer within 400 ms" in reply.json()["checks"]["server"]
            _, headers, _ = behind.requests[-1]
            assert headers["x-lookalike-deadline-ms"] == "300"  # the router itself names what is late, if it can


def test_a_clients_own_deadline_counts_the_queue_of_the_server_behind(gateway):
    client, behind = gateway

    async def queued(request: Request) -> Response:
        await asyncio.sleep(0.5)
        return Response(b"{}")

    behind.answer = queued
    reply = client.post("/predictions/search?deadline_ms=50", content=b"img")
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert reply.elapsed.total_seconds() < 0.45


def test_a_large_body_is_passed_on_unchanged(gateway):
    client, behind = gateway
    sent = bytes(range(256)) * 3900
    client.post("/predictions/mine", content=sent)
    assert behind.requests[-1][2] == sent
    client.post("/predictions/mine", content=iter([sent[:500_000], sent[500_000:]]))  # chunked
    assert behind.requests[-1][2] == sent


def test_a_body_that_names_too_many_bytes_is_refused_before_it_is_sent(gateway):
    client, behind = gateway
    start_s = time.monotonic()
    with raw_connection(client) as connection:
        connection.sendall(b"POST /predictions/search HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413") and b"body_too_large" in answer
    assert time.monotonic() - start_s < 1
    assert behind.requests == []


def test_a_hundred_megabytes_in_chunks_end_at_the_byte_too_many(gateway):
    client, behind = gateway
    block = bytes(1_000_000)
    reply = client.post("/predictions/search", content=(block for _ in range(100)))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    assert behind.requests == []


def test_a_body_that_trickles_is_408_and_holds_no_place(gateway):
    client, _ = gateway
    with raw_connection(client) as connection:
        connection.sendall(b"POST /predictions/search HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nabc")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408") and b"request_timeout" in answer
    assert client.get("/predictions/search/1.0/info").status_code == 200


def test_a_body_that_nobody_waits_for_keeps_no_connection_open(gateway):
    client, _ = gateway
    with raw_connection(client) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.sendall(b"abc")
        connection.settimeout(15)
        assert connection.recv(65536) == b""


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: a\r\n", b"GET /" + b"a" * 20])
def test_headers_that_trickle_are_408(gateway, sent):
    client, _ = gateway
    start_s = time.monotonic()
    with raw_connection(client) as connection:
        connection.sendall(sent)
        answer = connection.recv(65536)
        assert connection.recv(65536) == b""
    assert answer.startswith(b"HTTP/1.1 408")
    assert 0.4 < time.monotonic() - start_s < 3


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (i, b"v" * 1000) for i in range(20)) + b"\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"v" * 700_000,
    ],
    ids=["many", "long path", "endless"],
)
def test_headers_that_are_too_large_are_431(gateway, sent):
    client, _ = gateway
    with raw_connection(client) as connection:
        connection.sendall(sent)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 431") and b"headers_too_large" in answer
    assert 'rejected_total{reason="headers_too_large"}' in client.get("/metrics").text


def test_what_is_no_http_is_400_in_the_projects_form(gateway):
    client, _ = gateway
    with raw_connection(client) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400") and b"invalid_request" in answer


def test_a_connection_is_used_again_after_an_error(gateway):
    client, _ = gateway
    with raw_connection(client) as connection:
        for _ in range(3):
            connection.sendall(b"GET /predictions/search HTTP/1.1\r\nhost: a\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 405")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/predictions/search", 405, "method_not_allowed"),
        ("POST", "/predictions/search/1.0/healthz", 405, "method_not_allowed"),
        ("PATCH", "/items/a", 405, "method_not_allowed"),
        ("POST", "/predictions/%2e%2e/models", 404, "unknown_path"),
        ("POST", "/predictions/search/1.0/other", 404, "unknown_path"),
        ("POST", "/predictions/a%2Fb%20c", 404, "unknown_path"),
        ("GET", "/models", 404, "unknown_path"),
        ("GET", "/ping", 404, "unknown_path"),
    ],
)
def test_nothing_else_of_the_server_behind_can_be_reached(gateway, method, path, status, code):
    client, behind = gateway
    reply = client.request(method, path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert behind.requests == []
    assert status != 405 or reply.headers["allow"]


def test_a_packed_body_is_refused(gateway):
    client, behind = gateway
    reply = client.post("/predictions/search", content=b"img", headers={"content-encoding": "gzip"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (415, "unsupported_image")
    assert behind.requests == []


def test_every_answer_carries_the_security_headers(gateway):
    client, _ = gateway
    for reply in (client.get("/livez"), client.get("/nothing"), client.post("/predictions/search", content=b"x")):
        policy = reply.headers["content-security-policy"]
        assert "script-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"


def test_a_connection_that_the_server_closed_meanwhile_costs_no_request(gateway):
    client, behind = gateway
    assert client.post("/predictions/search", content=b"img").status_code == 200
    behind.answer = answering(200, b"{}", **{"content-type": "application/json", "connection": "close"})
    for _ in range(5):
        assert httpx.post(f"{client.base_url}/predictions/mine", content=b"img").status_code == 200


def test_cors_is_off_unless_an_origin_is_named():
    origin = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    with standing_behind() as (behind, _):
        with running_gateway(upstream_url=behind) as url, client_of(url) as client:
            assert "access-control-allow-origin" not in client.get("/livez", headers=origin).headers
        with (
            running_gateway(upstream_url=behind, cors_origins=["https://shop.example"]) as url,
            client_of(url) as client,
        ):
            assert client.get("/livez", headers=origin).headers["access-control-allow-origin"] == "https://shop.example"
            assert client.options("/predictions/search", headers=origin).status_code == 200
            refused = client.get("/nothing", headers=origin)  # an error must be readable, too
            assert refused.headers["access-control-allow-origin"] == "https://shop.example"
            other = client.get("/livez", headers={"origin": "https://else.example"})
            assert "access-control-allow-origin" not in other.headers


def test_requests_under_way_are_answered_when_the_gateway_ends():
    replies: list[httpx.Response] = []

    async def slow(request: Request) -> Response:
        await asyncio.sleep(0.5)
        return Response(b'{"done": true}', media_type="application/json")

    with standing_behind() as (behind_url, behind):
        behind.answer = slow
        with running_gateway(upstream_url=behind_url) as url:
            thread = threading.Thread(
                target=lambda: replies.append(httpx.post(f"{url}/predictions/mine", content=b"x"))
            )
            thread.start()
            while not behind.under_way:
                time.sleep(0.01)
        thread.join()
    assert replies[0].json() == {"done": True}


def test_a_client_that_reads_nothing_is_let_go():
    async def large(request: Request) -> Response:
        return Response(bytes(12_000_000), media_type="application/octet-stream")

    with standing_behind() as (behind_url, behind):
        behind.answer = large
        with running_gateway(upstream_url=behind_url, send_timeout_s=0.5) as url, client_of(url) as client:
            with raw_connection(client) as connection:
                connection.sendall(b"POST /predictions/mine HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx")
                time.sleep(1.5)
                connection.settimeout(5)
                read = 0
                with contextlib.suppress(ConnectionResetError):
                    while part := connection.recv(1_000_000):
                        read += len(part)
            assert 0 < read < 12_000_000
            assert "lookalike_gateway_in_flight 0.0" in client.get("/metrics").text


def raw_connection(client: httpx.Client) -> socket.socket:
    parts = urlsplit(str(client.base_url))
    return socket.create_connection((parts.hostname, parts.port), timeout=5)


ODD = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)
PATHS = ("/predictions/search", "/items", "/items/", "/items/batch", "/index", "/snapshots/", "/", "/healthz")
HEADERS = ("content-type", "accept", "x-request-id", "x-lookalike-filters", "x-api-key", "range", "if-none-match")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"]),
    path=st.builds(str.__add__, st.sampled_from(PATHS), ODD),
    name=st.sampled_from(HEADERS),
    value=st.binary(max_size=30).filter(lambda value: not set(value) & set(b"\r\n\0")),
    body=st.binary(max_size=200),
)
def test_whatever_is_sent_is_answered_in_form(world, method, path, name, value, body):
    client, _ = world
    head = f"{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {len(body)}\r\n".encode()
    with raw_connection(client) as connection:
        connection.sendall(head + name.encode() + b": " + value + b"\r\n\r\n" + body)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
    status, _, content = answer.partition(b"\r\n\r\n")
    assert status.startswith(b"HTTP/1.1 ")
    code = int(status[9:12])
    assert code < 500 or code == 503, answer
    if code >= 400 and content:
        told = json.loads(content)
        assert told.get("ready") is False or told["error"]["code"]


@pytest.mark.parametrize(("kept", "connections"), [(True, 1), (False, 3)])
def test_a_connection_serves_the_next_request_only_where_it_may(kept, connections):
    ports = []

    async def answer(request: Request) -> Response:
        ports.append(request.client.port)
        return Response(b"{}")

    with standing_behind() as (behind_url, behind):
        behind.answer = answer
        with running_gateway(upstream_url=behind_url, keep_connections=kept) as url:
            for _ in range(3):
                assert httpx.post(f"{url}/predictions/search", content=b"img").status_code == 200
    assert len(set(ports)) == connections
