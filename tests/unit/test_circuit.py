"""The circuit breaker: it opens after failures in a row, lets one call try at a time, and closes with an answer."""

import pytest

from lookalike.circuit import Circuit


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit("embed", failures=3, open_s=2.0, clock=clock)


def fail(circuit: Circuit, times: int) -> None:
    for _ in range(times):
        circuit.failed()


def test_calls_go_until_enough_failed_in_a_row(circuit: Circuit) -> None:
    fail(circuit, 2)
    circuit.answered()
    fail(circuit, 2)
    assert circuit.wait_s() == 0 and not circuit.is_open
    fail(circuit, 1)
    assert circuit.wait_s() == 2 and circuit.is_open


def test_one_call_at_a_time_tries_and_an_answer_lets_all_through(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, 3)
    clock.now_s += 2
    assert [circuit.wait_s() for _ in range(3)] == [0, 2, 2]
    circuit.answered()
    assert [circuit.wait_s() for _ in range(3)] == [0, 0, 0]


def test_a_try_that_fails_or_is_given_up_is_followed_by_another_after_the_pause(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, 3)
    clock.now_s += 2
    assert circuit.wait_s() == 0
    circuit.failed()
    assert circuit.wait_s() == 2
    clock.now_s += 2
    assert circuit.wait_s() == 0  # and nobody says what came of it
    clock.now_s += 2
    assert circuit.wait_s() == 0


def test_none_opens_when_it_is_switched_off(clock: Clock) -> None:
    circuit = Circuit("embed", failures=0, open_s=2.0, clock=clock)
    fail(circuit, 100)
    assert circuit.wait_s() == 0


def test_it_is_told_once_when_it_opens_and_once_when_it_closes(
    circuit: Circuit, caplog: pytest.LogCaptureFixture
) -> None:
    fail(circuit, 5)
    circuit.answered()
    circuit.answered()
    assert caplog.messages == ["embed did not answer 3 calls in a row: it is spared", "embed answers again"]
