"""kill -9 of model workers, the router's worker and the JVM under load: readiness tells it, and nothing hangs."""

import threading
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.resilience.promises import Promise
from tests.resilience.real_stack import JPEG, Load, Stack, Watch, ask, kill, photo, running_stack

pytestmark = pytest.mark.full
DEADLINE_MS, LATE_S = 4000, 1.0
KILLING_S = 12.0
TYPED = {200, 429, 503, 504}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("kills")) as stack:
        yield stack


@pytest.fixture(autouse=True)
def ready(stack: Stack) -> None:
    """Each test begins with a server that answers."""
    wait_for_a_search(stack, 120)


def wait_for_a_search(stack: Stack, limit_s: float) -> float:
    start_s = time.monotonic()
    with httpx.Client(base_url=stack.url, headers=JPEG, timeout=30) as client:
        while ask(client, photo(320)).status != 200:
            assert time.monotonic() - start_s < limit_s, "no search is answered"
            time.sleep(0.1)
    return time.monotonic() - start_s


def hold_to(load: Load, promise: Promise, name: str) -> None:
    """Every request had its answer in time, and it is 200 or a typed error."""
    told = Counter((one.status, one.code) for one in load.asked)
    wrong = {key: count for key, count in told.items() if key[0] not in TYPED or (key[0] != 200 and not key[1])}
    assert not wrong, told
    assert told[(200, "")] > 0
    slowest_s = max(one.seconds for one in load.asked)
    promise(f"{name}.slowest_answer", slowest_s, "s", at_most=DEADLINE_MS / 1000 + LATE_S)
    promise(f"{name}.requests", len(load.asked), "requests")


@pytest.mark.parametrize("model", ["detector", "embedder", "search"])
def test_a_worker_that_is_killed_again_and_again(stack: Stack, model: str, promise: Promise) -> None:
    name = f"killed_{model}"
    with Load(stack.url, DEADLINE_MS) as load, Watch(stack.url) as watch:
        time.sleep(2)
        killed_s = time.monotonic()
        stop = threading.Event()
        killer = threading.Thread(target=keep_killing, args=(stack, model, stop))
        killer.start()
        try:
            not_ready_s = watch.first(False, killed_s, 10)
            time.sleep(max(0.0, KILLING_S - (time.monotonic() - killed_s)))
        finally:
            stop.set()
            killer.join()
        well_s = time.monotonic()
        back_s = watch.first(True, well_s, 60)
        time.sleep(2)
    promise(f"{name}.told_not_ready", not_ready_s, "s", at_most=10)
    promise(f"{name}.ready_again", back_s, "s", at_most=60)
    hold_to(load, promise, name)


def keep_killing(stack: Stack, model: str, stop: threading.Event) -> None:
    while not stop.wait(0.1):
        for pid in stack.worker_pids(model):
            kill(pid)


def test_a_server_that_is_killed_and_started_again(stack: Stack, promise: Promise) -> None:
    with Load(stack.url, DEADLINE_MS) as load, Watch(stack.url) as watch:
        time.sleep(2)
        killed_s = time.monotonic()
        kill(stack.server.identity.pid)
        not_ready_s = watch.first(False, killed_s, 10)
        time.sleep(2)
        stack.start_again()  # returns when the server itself says that it is ready
        back_s = watch.first(True, time.monotonic(), 30)
        time.sleep(2)
    promise("killed_JVM.told_not_ready", not_ready_s, "s", at_most=10)
    promise("killed_JVM.ready_again", back_s, "s", at_most=10)
    hold_to(load, promise, "killed_JVM")
