"""The shapes of a closed-loop load: how many clients there are in each phase, and which phases are judged."""

from typing import NamedTuple

THINK_S = 10.0  # how long a client waits between two tasks, on average


class Phase(NamedTuple):
    """A part of a run: its share of the run's seconds, and its height as a multiple of the nominal rate."""

    name: str
    share: float
    height: float
    judged: bool = True


_WARM_UP = Phase("warm-up", 0.15, 1, judged=False)  # the JVM compiles, connections open, crops are cut and kept

SHAPES: dict[str, tuple[Phase, ...]] = {
    "steady": (_WARM_UP, Phase("steady", 0.85, 1)),
    "ramp": (
        _WARM_UP._replace(share=0.1, height=0.25),
        Phase("25 %", 0.1, 0.25, judged=False),
        Phase("50 %", 0.1, 0.5, judged=False),
        Phase("75 %", 0.1, 0.75, judged=False),
        Phase("100 %", 0.6, 1),
    ),
    # More than the machine can serve; once the queue has drained, it must be as good as before.
    "spike": (
        _WARM_UP._replace(share=0.1),
        Phase("before", 0.3, 1, judged=False),
        Phase("spike", 0.1, 4, judged=False),
        Phase("drain", 0.05, 1, judged=False),
        Phase("after", 0.45, 1),
    ),
    # What creeps shows at the end.
    "soak": (
        _WARM_UP._replace(share=0.02),
        Phase("first tenth", 0.1, 1),
        Phase("middle", 0.78, 1),
        Phase("last tenth", 0.1, 1),
    ),
}
# Long enough for a p99 of the searches in every judged phase, at three tasks a second.
SECONDS = {"steady": 300, "ramp": 480, "spike": 600, "soak": 3600}


def clients_for(tasks_per_s: float, height: float) -> int:
    """Return how many clients, each with a task every `THINK_S` seconds, make up a rate."""
    return max(1, round(tasks_per_s * height * THINK_S))


def phase_at(shape: str, second: float, seconds: float) -> Phase | None:
    """Return the phase that a run of `seconds` is in; None when it is over."""
    end_s = 0.0
    for phase in SHAPES[shape]:
        end_s += phase.share * seconds
        if second < end_s:
            return phase
    return None
