"""Takes the figures: rounds in which each system is started, checked, searched by 1, 2, ... clients, and stopped."""

import fcntl
import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.answers import Answer, check_answers
from benchmarks.peers.errors import PeerFailed
from benchmarks.peers.load import Endpoint, closed_loop
from benchmarks.peers.processes import CpuMeter, descendants_memory_mb
from benchmarks.peers.systems import System
from benchmarks.private_server import WARM_UP

log = logging.getLogger(__name__)

WARM_UP_CLIENTS = 4  # reach every worker
QUIET_SHARE, QUIET_LOOK_S = 0.05, 0.5
WAKE_S = 0.5


@dataclass(frozen=True)
class Plan:
    """What a comparison does."""

    photos: Sequence[bytes]
    clients: Sequence[int]
    searches: int  # timed, at each number of clients in each round
    rounds: int
    seed: int
    quiet_s: float  # how long a system waits at most for other processes of the machine to rest
    lock_file: Path | None = None  # held during a round
    warm_up: int = WARM_UP  # searches of a started system before the first timed one


@dataclass(frozen=True)
class Sample:
    """The timed searches of one system in one round at one number of clients."""

    system: str
    round: int
    clients: int
    latencies_ms: tuple[float, ...]
    elapsed_s: float
    cpu_s: float  # of the server with all its processes
    others_share: float  # of the machine's CPU time, used by neither the server nor the clients

    @property
    def searches_per_s(self) -> float:
        """The throughput."""
        return len(self.latencies_ms) / self.elapsed_s


@dataclass(frozen=True)
class Start:
    """What one round measured of one system besides its searches."""

    system: str
    round: int
    ready_s: float
    memory_mb: float  # after the timed searches


@dataclass
class Results:
    """All that was measured, and the systems that were left out, with the reason."""

    samples: list[Sample] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def leave_out(self, system: str, reason: str) -> None:
        """Drop a system with all that was measured of it."""
        self.left_out[system] = reason
        self.samples = [sample for sample in self.samples if sample.system != system]
        self.starts = [start for start in self.starts if start.system != system]


def compare(reference: System, peers: Sequence[System], plan: Plan) -> Results:
    """Measure all systems in rounds, in an order that is shuffled anew in each.

    Raises:
        LookalikeError: when the reference cannot be measured.
        AnswersDiffer: when a peer finds something else than the reference.
    """
    results, shuffled = Results(), random.Random(plan.seed)
    expected: dict[int, Answer] = {}
    for number in range(1, plan.rounds + 1):
        systems = [system for system in (reference, *peers) if system.name not in results.left_out]
        with _locked(plan.lock_file):
            expected = expected or answers_of(reference, plan.photos)
            for system in shuffled.sample(systems, len(systems)):
                log.info("round %d of %d: %s", number, plan.rounds, system.name)
                try:
                    start, samples = measure(system, number, expected, plan)
                except PeerFailed as error:
                    if system is reference:
                        raise
                    results.leave_out(system.name, error.message)
                    continue
                results.starts.append(start)
                results.samples += samples
    return results


def answers_of(system: System, photos: Sequence[bytes]) -> dict[int, Answer]:
    """Return the system's answer to each photo."""
    with system.serving(photos[0]) as endpoint:
        return {reply.photo: reply.answer() for reply in closed_loop(endpoint, photos, 1, len(photos)).replies}


def measure(system: System, number: int, expected: Mapping[int, Answer], plan: Plan) -> tuple[Start, list[Sample]]:
    """Take one system's turn in round `number`."""
    start_s = time.perf_counter()
    with system.serving(plan.photos[0]) as endpoint:
        ready_s = time.perf_counter() - start_s
        warm = closed_loop(endpoint, plan.photos, WARM_UP_CLIENTS, plan.warm_up)
        check_answers(system.name, expected, warm.replies)
        wait_until_quiet(plan.quiet_s)
        samples = [_sample(system, number, endpoint, clients, plan) for clients in plan.clients]
        return Start(system.name, number, ready_s, descendants_memory_mb()), samples


def _sample(system: System, number: int, endpoint: Endpoint, clients: int, plan: Plan) -> Sample:
    meter = CpuMeter()
    loop = closed_loop(endpoint, plan.photos, clients, plan.searches)
    cpu_s, others_share = meter.read()
    latencies_ms = tuple(reply.ms for reply in loop.replies)
    return Sample(system.name, number, clients, latencies_ms, loop.elapsed_s, cpu_s, others_share)


def wait_until_quiet(limit_s: float) -> None:
    """Return when other processes leave the machine alone, or after `limit_s`; the server idles meanwhile."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        meter = CpuMeter()
        time.sleep(QUIET_LOOK_S)
        if meter.read()[1] < QUIET_SHARE:
            return


@contextmanager
def _locked(file: Path | None) -> Iterator[None]:
    """Hold a lock file, as flock does, so that others who share the machine get their turn between two rounds."""
    if file is None:
        yield
        return
    with file.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    time.sleep(WAKE_S)  # else the next round would have it again before anybody who waits has woken up
