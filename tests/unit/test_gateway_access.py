"""Keys, rates and concurrency of the gateway."""

import asyncio
import threading
import time

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response
from typer.testing import CliRunner

from lookalike.cli import app as cli
from lookalike.errors import SetupError
from lookalike.gateway.keys import KeyRing, new_key, read_key
from lookalike.gateway.rates import Rate, RateLimiter
from lookalike.gateway.settings import GatewaySettings
from tests.gateway_running import client_of, running_gateway, standing_behind

READ, READ_KEY = new_key("shop", "read")
ADMIN, ADMIN_KEY = new_key("ops", "admin")


@pytest.fixture(scope="module")
def locked():
    """A gateway with a read key and an admin key."""
    with standing_behind() as (behind, _), running_gateway(upstream_url=behind, keys=[READ_KEY, ADMIN_KEY]) as url:
        yield url


@pytest.mark.parametrize("key", [READ, ADMIN])
def test_a_known_key_reads(locked, key):
    with client_of(locked, key) as client:
        assert client.get("/predictions/search/1.0/info").status_code == 200


def test_a_key_may_come_as_a_bearer_token(locked):
    with client_of(locked) as client:
        reply = client.get("/predictions/search/1.0/info", headers={"authorization": f"Bearer {READ}"})
    assert reply.status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"x-api-key": "lk_wrong"}, {"x-api-key": "é"}, {"authorization": "Basic eA=="}]
)
def test_without_a_known_key_nothing_is_read(locked, headers):
    raw = {name: value.encode() for name, value in headers.items()}
    with client_of(locked) as client:
        reply = client.get("/predictions/search/1.0/info", headers=raw)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"


def test_a_key_in_the_query_string_is_none(locked):
    with client_of(locked) as client:
        assert client.get(f"/predictions/search/1.0/info?x-api-key={READ}").status_code == 401


@pytest.mark.parametrize("path", ["/items", "/snapshots", "/metrics"])
def test_a_read_key_does_not_administer(locked, path):
    with client_of(locked, READ) as client:
        reply = client.get(path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden")


@pytest.mark.parametrize("path", ["/livez", "/openapi.json"])
def test_what_tells_nothing_is_open(locked, path):
    with client_of(locked) as client:
        assert client.get(path).status_code == 200


def test_without_a_read_key_reading_is_open_and_administration_is_not():
    with standing_behind() as (behind, _), running_gateway(upstream_url=behind) as url, client_of(url) as client:
        assert client.get("/predictions/search/1.0/info").status_code == 200
        assert client.get("/metrics").status_code == 200
        assert client.get("/items").status_code == 401
        assert client.delete("/items/a").status_code == 401


def test_the_settings_hold_no_secret():
    assert READ not in READ_KEY.entry()
    assert read_key(READ_KEY.entry()) == READ_KEY
    assert KeyRing([READ_KEY]).find(READ) == READ_KEY
    assert KeyRing([READ_KEY]).find(READ[:-1]) is None


def test_a_secret_in_place_of_its_digest_is_refused_and_not_repeated(monkeypatch):
    monkeypatch.setenv("LOOKALIKE_GATEWAY_KEYS", f'["shop:read:{READ}"]')
    with pytest.raises(SetupError) as refused:
        GatewaySettings.load()
    assert READ not in refused.value.message


def test_keys_new_prints_a_key_that_the_printed_entry_admits():
    done = CliRunner().invoke(cli, ["keys", "new", "--role", "admin", "--name", "ops"])
    entry = done.stderr.split('["')[1].split('"]')[0]
    assert KeyRing([read_key(entry)]).find(done.stdout.strip()) == read_key(entry)


@pytest.mark.parametrize("arguments", [["--role", "root", "--name", "a"], ["--role", "read", "--name", "a b"]])
def test_keys_new_refuses_wrong_usage(arguments):
    assert CliRunner().invoke(cli, ["keys", "new", *arguments]).exit_code == 2


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_rate_lets_its_amount_through_at_once_and_then_one_by_one():
    clock = Clock()
    limiter = RateLimiter(Rate(10, 60), clock)
    assert [limiter.hit("a") for _ in range(10)] == [0.0] * 10
    wait_s = limiter.hit("a")
    assert wait_s == pytest.approx(6.0)
    assert limiter.hit("b") == 0.0  # somebody else
    clock.now_s += wait_s
    assert limiter.hit("a") == 0.0
    assert limiter.hit("a") > 0


def test_over_a_long_time_a_rate_is_kept():
    clock = Clock()
    limiter = RateLimiter(Rate(10, 60), clock)
    passed = 0
    for _ in range(6000):
        passed += limiter.hit("a") == 0.0
        clock.now_s += 0.1
    assert passed == 110  # 10 at once, and 10 a minute for 10 minutes


def test_clients_that_are_even_are_forgotten():
    clock = Clock()
    limiter = RateLimiter(Rate(10, 60), clock)
    for i in range(20_000):
        limiter.hit(f"client {i}")
        clock.now_s += 0.01
    assert len(limiter._due_s) < 6000


@pytest.mark.parametrize("text", ["10", "0/minute", "ten/minute", "10/fortnight", "-1/second"])
def test_a_wrong_rate_is_refused_by_name(monkeypatch, text):
    monkeypatch.setenv("LOOKALIKE_GATEWAY_RATE", text)
    with pytest.raises(SetupError, match="rate"):
        GatewaySettings.load()


def test_beyond_its_rate_a_client_is_told_when_to_come_back():
    with (
        standing_behind() as (behind, _),
        running_gateway(upstream_url=behind, rate="3/minute", keys=[ADMIN_KEY]) as url,
        client_of(url) as client,
    ):
        replies = [client.get("/predictions/search/1.0/info") for _ in range(4)]
        assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
        assert replies[-1].json()["error"]["code"] == "rate_limited"
        assert 1 <= int(replies[-1].headers["retry-after"]) <= 20
        # A key has a rate of its own; a wrong one counts for the address, so that nobody tries keys without end.
        assert client.get("/predictions/search/1.0/info", headers={"x-api-key": ADMIN}).status_code == 200
        assert client.get("/predictions/search/1.0/info", headers={"x-api-key": "lk_guess"}).status_code == 429
        counted = client.get("/metrics", headers={"x-api-key": ADMIN}).text
        assert 'lookalike_gateway_rejected_total{reason="rate_limited"} 2.0' in counted


def test_a_trusted_proxy_names_the_client_and_nobody_else_does():
    info = "/predictions/search/1.0/info"

    def statuses(**settings: object) -> list[int]:
        with running_gateway(upstream_url=behind, rate="1/minute", **settings) as url, client_of(url) as client:
            return [client.get(info, headers={"x-forwarded-for": f"192.0.2.{i}"}).status_code for i in range(3)]

    with standing_behind() as (behind, _):
        assert statuses() == [200, 429, 429]
        assert statuses(trusted_proxies=["127.0.0.1"]) == [200, 200, 200]


def test_an_ipv6_client_counts_by_its_subscribers_network():
    with (
        standing_behind() as (behind, _),
        running_gateway(upstream_url=behind, rate="1/minute", trusted_proxies=["127.0.0.1"]) as url,
        client_of(url) as client,
    ):
        replies = [
            client.get("/predictions/search/1.0/info", headers={"x-forwarded-for": address}).status_code
            for address in ("2001:db8:1:1::1", "2001:db8:1:1::2", "2001:db8:1:2::1")
        ]
        assert replies == [200, 429, 200]


@pytest.mark.parametrize(
    ("settings", "status", "code"),
    [
        ({"max_in_flight": 2}, 503, "overloaded"),
        ({"max_in_flight_per_client": 2}, 429, "too_many_at_once"),
    ],
)
def test_beyond_the_places_a_request_is_refused_at_once(settings, status, code):
    release = threading.Event()

    async def slow(request: Request) -> Response:
        while not release.is_set():
            await asyncio.sleep(0.01)
        return Response(b"{}", media_type="text/plain")

    with standing_behind() as (behind_url, behind), running_gateway(upstream_url=behind_url, **settings) as url:
        well, behind.answer = behind.answer, slow
        waiting = [threading.Thread(target=httpx.post, args=(f"{url}/predictions/mine",)) for _ in range(2)]
        for thread in waiting:
            thread.start()
        while behind.under_way < 2:
            time.sleep(0.01)
        with client_of(url) as client:
            reply = client.post("/predictions/search", content=b"x")
        release.set()
        for thread in waiting:
            thread.join()
        behind.answer = well
        assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
        assert reply.headers["retry-after"] == "1"
        assert reply.elapsed.total_seconds() < 0.5
        with client_of(url) as client:  # the places are free again
            assert client.get("/predictions/search/1.0/info").status_code == 200
