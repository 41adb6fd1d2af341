"""kill -9 under load: `healthz` is never wrong about it, requests end in time, and what was killed comes back."""

import io
import signal
import statistics
import time

import httpx
import pytest

from lookalike.process_table import ProcessId, wait_until_ended
from tests.e2e.catalogue_drawn import draw
from tests.e2e.surroundings import management
from tests.resilience.killable import Killable
from tests.resilience.load import Load, one_search, wait_for_health
from tests.resilience.promises import Promise

TOLD_WITHIN_S, BACK_WITHIN_S = 10.0, 60.0
# The gateway's deadline (10 s), and the time that a busy machine takes to say so.
ANSWERED_WITHIN_S = 12.0
# A cold network alone takes longer.
FIRST_WITHIN_MS = 500


@pytest.fixture
def photo() -> bytes:
    buffer = io.BytesIO()
    draw("disc", "red").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def worker_of(server: Killable, model: str) -> ProcessId | None:
    status, answer = management(server.process, "GET", f"/models/{model}")
    assert status == 200
    (pid,) = [worker["pid"] for worker in answer[0]["workers"]]
    return ProcessId.of(int(pid))


def health_until_back(server: Killable, model: str, killed: ProcessId) -> float | None:
    """Return after how many seconds `healthz` told it; None when the new worker was there before."""
    begun, told_s = time.monotonic(), None
    while time.monotonic() - begun < BACK_WITHIN_S:
        ready = httpx.get(f"{server.gateway_url}/healthz", timeout=15).status_code == 200
        if not ready and told_s is None:
            told_s = time.monotonic() - begun
        if ready and worker_of(server, model) not in (killed, None):
            return told_s
        assert told_s is not None or time.monotonic() - begun < TOLD_WITHIN_S, "said to be ready without a worker"
        time.sleep(0.05)
    raise TimeoutError(f"{model} did not come back within {BACK_WITHIN_S:.0f} s")


def check(load: Load, promise: Promise, what: str, told_s: float | None, back_s: float) -> None:
    # A question that came while a worker was away waits for the new one, and is then answered truly.
    if told_s is not None:
        promise(f"killed_{what}.told_after", told_s, "s", at_most=TOLD_WITHIN_S)
    promise(f"killed_{what}.back_after", back_s, "s", at_most=BACK_WITHIN_S)
    promise(f"killed_{what}.slowest_answer", load.slowest_s, "s", at_most=ANSWERED_WITHIN_S)
    promise(f"killed_{what}.answers_without_a_type", len(load.untyped), "answers", at_most=0)
    promise(f"killed_{what}.searches", len(load.ended), "searches")


@pytest.mark.parametrize("model", ["detector", "search"])
def test_a_killed_worker_is_told_and_comes_back(killable: Killable, photo: bytes, promise: Promise, model: str) -> None:
    with Load(killable.gateway_url, photo) as load:
        time.sleep(1)
        worker = worker_of(killable, model)
        assert worker is not None
        worker.send(signal.SIGKILL)
        killed = time.monotonic()
        assert wait_until_ended([worker], 5)
        told_s = health_until_back(killable, model, worker)
        back_s = time.monotonic() - killed
        time.sleep(1)
    assert load.ended[-1].status == 200
    check(load, promise, model, told_s, back_s)


def test_a_killed_server_is_told_and_comes_back_with_its_container(
    killable: Killable, photo: bytes, promise: Promise
) -> None:
    with Load(killable.gateway_url, photo) as load:
        time.sleep(1)
        killable.process.identity.send(signal.SIGKILL)
        killed = time.monotonic()
        told_s = wait_for_health(killable.gateway_url, False, TOLD_WITHIN_S)
        killable.start_again()
        wait_for_health(killable.gateway_url, True, BACK_WITHIN_S)
        back_s = time.monotonic() - killed
        time.sleep(1)
    with httpx.Client(timeout=15) as client:
        assert one_search(client, killable.gateway_url, photo).status == 200
    check(load, promise, "server", told_s, back_s)


def test_the_first_search_after_a_start_is_no_slow_one(killable: Killable, photo: bytes, promise: Promise) -> None:
    killable.start_again()
    with httpx.Client(timeout=15) as client:
        first, *later = [one_search(client, killable.gateway_url, photo) for _ in range(21)]
    assert {one.status for one in (first, *later)} == {200}
    usual_s = statistics.median(one.seconds for one in later)
    promise("start.first_search", 1000 * first.seconds, "ms", at_most=FIRST_WITHIN_MS)
    promise("start.next_searches", 1000 * usual_s, "ms")
