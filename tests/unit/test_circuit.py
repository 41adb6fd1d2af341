"""The circuit to a model server: it opens after failures in a row, lets single probes through, and closes again."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from PIL import Image

from lookalike.circuit import Circuit, CircuitState
from lookalike.clients import HttpModelClient
from lookalike.config import RouterSettings
from lookalike.errors import (
    DeadlineExceeded,
    LookalikeError,
    ModelFailed,
    ModelUnavailable,
    Overloaded,
    ServiceError,
)
from lookalike.stage_timer import Deadline
from tests.small_model_server import SmallServer, hangs_up, serving

IMAGE = Image.new("RGB", (40, 20), "red")
FAILURES, OPEN_S, SLOW_S = 3, 10.0, 1.0


class Clock:
    """Seconds that a test moves on."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit("embed", FAILURES, OPEN_S, SLOW_S, clock)


def fail(circuit: Circuit, error: BaseException, times: int = 1, always: bool = False) -> None:
    for _ in range(times):
        with pytest.raises(type(error)), circuit.call(always):
            raise error


def passes(circuit: Circuit) -> bool:
    """Tell whether a call gets through; one that gets through succeeds."""
    with contextlib.suppress(ModelUnavailable), circuit.call():
        return True
    return False


@pytest.mark.parametrize("error", [ModelFailed("x"), ModelUnavailable("x")])
def test_failures_in_a_row_open_it(circuit: Circuit, error: LookalikeError) -> None:
    fail(circuit, error, FAILURES - 1)
    assert passes(circuit)
    fail(circuit, error, FAILURES)
    assert not passes(circuit)
    assert circuit.state == CircuitState(True, 1)


def test_it_says_when_to_come_back(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, ModelFailed("x"), FAILURES)
    clock.now_s += 4
    with pytest.raises(ModelUnavailable, match=r"^embed: .*3 calls in a row") as caught, circuit.call():
        pass
    assert caught.value.retry_after_s == pytest.approx(OPEN_S - 4)


def test_one_probe_at_a_time_and_its_success_closes_it(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, ModelFailed("x"), FAILURES)
    clock.now_s += OPEN_S
    with circuit.call():
        assert not passes(circuit)  # while the probe is under way
    assert circuit.state == CircuitState(False, 1)
    assert passes(circuit)


def test_a_probe_that_fails_leaves_it_open_until_the_next(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, ModelFailed("x"), FAILURES)
    for _ in range(3):
        clock.now_s += OPEN_S
        fail(circuit, ModelFailed("x"))
        assert not passes(circuit)
    assert circuit.state == CircuitState(True, 1)


def test_a_probe_whose_client_went_away_does_not_shut_the_door_for_ever(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, ModelFailed("x"), FAILURES)
    clock.now_s += OPEN_S
    fail(circuit, asyncio.CancelledError())
    clock.now_s += OPEN_S
    assert passes(circuit)


@pytest.mark.parametrize("error", [asyncio.CancelledError(), DeadlineExceeded("x")])
def test_only_a_call_that_had_its_time_counts_as_late(circuit: Circuit, clock: Clock, error: BaseException) -> None:
    fail(circuit, error, 10 * FAILURES)  # clients with short deadlines
    assert passes(circuit)
    for _ in range(FAILURES):
        with pytest.raises(type(error)), circuit.call():
            clock.now_s += SLOW_S
            raise error
    assert not passes(circuit)


def test_a_full_queue_is_no_failure(circuit: Circuit) -> None:
    fail(circuit, Overloaded("x"), 10 * FAILURES)
    assert passes(circuit)


def test_a_health_check_passes_an_open_circuit_and_its_success_closes_it(circuit: Circuit) -> None:
    fail(circuit, ModelFailed("x"), FAILURES)
    fail(circuit, ModelFailed("x"), always=True)
    assert circuit.state.is_open
    with circuit.call(always=True):
        pass
    assert passes(circuit)


def test_calls_that_were_under_way_when_it_opened_do_not_keep_it_open_longer(circuit: Circuit, clock: Clock) -> None:
    with pytest.raises(ModelFailed), circuit.call():
        fail(circuit, ModelFailed("x"), FAILURES)
        clock.now_s += OPEN_S - 1
        raise ModelFailed("x")
    clock.now_s += 1
    assert passes(circuit)


def test_zero_failures_switch_it_off(clock: Clock) -> None:
    circuit = Circuit("embed", 0, OPEN_S, SLOW_S, clock)
    fail(circuit, ModelFailed("x"), 100)
    assert passes(circuit)


def test_it_logs_that_it_opened_and_closed_and_no_line_for_each_call(
    circuit: Circuit, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        fail(circuit, ModelFailed("x"), FAILURES)
        assert not any(passes(circuit) for _ in range(50))
        clock.now_s += OPEN_S
        assert passes(circuit)
    assert caplog.messages == ["embed: the circuit opens", "embed: the circuit closes"]


@pytest.fixture
def server() -> SmallServer:
    return SmallServer()


@pytest.fixture
async def client(server: SmallServer) -> AsyncIterator[HttpModelClient]:
    async with serving(server) as url:
        urls = {"detector_url": url, "embedder_url": url, "metadata_url": url}
        client = HttpModelClient(RouterSettings(**urls, circuit_failures=2, circuit_open_s=0.2, embed_ms=400))
        yield client
        await client.close()


async def embed(client: HttpModelClient, budget_ms: float = 5000) -> str:
    deadline = Deadline(budget_ms)
    try:
        await deadline.bound("embed", client.embed([IMAGE], deadline), 400)
    except ServiceError as error:
        return type(error).__name__
    return "ok"


async def answers_500(request: web.Request) -> web.Response:
    return web.Response(status=500, text="a bug")


async def is_full(request: web.Request) -> web.Response:
    return web.json_response({"code": 503, "type": "ServiceUnavailableException"}, status=503)


async def never(request: web.Request) -> web.Response:
    await asyncio.sleep(30)
    return web.Response()


async def test_a_server_that_fails_is_left_alone_and_found_again(client: HttpModelClient, server: SmallServer) -> None:
    server.answers = [answers_500] * 2
    assert [await embed(client) for _ in range(4)] == ["ModelFailed"] * 2 + ["ModelUnavailable"] * 2
    assert len(server.bodies) == 2  # the last two were not sent
    assert client.circuits()["embed"].is_open and not client.circuits()["detect"].is_open
    await asyncio.sleep(0.2)
    assert await embed(client) == "ok"
    assert client.circuits()["embed"] == CircuitState(False, 1)


async def test_a_dead_connection_counts_once_with_its_retry(client: HttpModelClient, server: SmallServer) -> None:
    server.answers = [hangs_up] * 2
    assert await embed(client) == "ModelUnavailable"
    assert len(server.bodies) == 2 and not client.circuits()["embed"].is_open


async def test_a_server_that_never_answers_opens_it_but_hasty_clients_do_not(
    client: HttpModelClient, server: SmallServer
) -> None:
    assert await embed(client) == "ok"
    server.answers = [never] * 7
    assert [await embed(client, 20) for _ in range(5)] == ["DeadlineExceeded"] * 5
    assert not client.circuits()["embed"].is_open
    assert [await embed(client) for _ in range(3)] == ["DeadlineExceeded"] * 2 + ["ModelUnavailable"]


async def test_a_busy_server_is_told_as_such(client: HttpModelClient, server: SmallServer) -> None:
    server.answers = [is_full] * 4
    assert [await embed(client) for _ in range(5)] == ["Overloaded"] * 4 + ["ok"]
