"""What was decided, one step a line, appended and forced to the disk: nothing is lost, and every step can be undone."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from lookalike.errors import SetupError
from lookalike.index.durable import fsync_path


class Decision(BaseModel, extra="forbid", frozen=True):
    """`keep` the label as it is, give another `label`, or `weed` the image out; `clear` takes a decision back."""

    action: Literal["keep", "label", "weed", "clear"]
    label: str = ""


class Step(BaseModel, extra="forbid", frozen=True):
    """One decision about several cases, or a move through the steps before."""

    move: Literal["do", "undo", "redo"]
    names: list[str] = []
    decision: Decision | None = None


@dataclass
class _State:
    done: list[Step]
    undone: list[Step]
    touched: set[str]

    def take(self, step: Step) -> bool:
        """Follow one step; False where there is nothing to undo or redo."""
        if step.move == "do":
            self.touched.update(step.names)
            self.done.append(step)
            self.undone.clear()
            return True
        giving, taking = (self.done, self.undone) if step.move == "undo" else (self.undone, self.done)
        if not giving:
            return False
        taking.append(giving.pop())
        return True


class Journal:
    """The steps of one review; it opens where the last one ended."""

    def __init__(self, file: Path) -> None:
        """Read the steps that `file` has; a last line that a crash cut off is dropped.

        Raises:
            SetupError: a line is none of a journal.
        """
        self._file, self._state = file, _State([], [], set())
        for step in _read(file):
            self._state.take(step)

    def decide(self, names: Sequence[str], decision: Decision) -> None:
        """Decide about the cases `names`."""
        self._append(Step(move="do", names=list(names), decision=decision))

    def undo(self) -> bool:
        """Take the last step back; False where there is none."""
        return bool(self._state.done) and self._append(Step(move="undo"))

    def redo(self) -> bool:
        """Do the step again that was taken back last; False where there is none."""
        return bool(self._state.undone) and self._append(Step(move="redo"))

    def decisions(self) -> dict[str, Decision]:
        """Return what is decided now, by the case's name."""
        decided: dict[str, Decision] = {}
        for step in self._state.done:
            assert step.decision is not None
            for name in step.names:
                if step.decision.action == "clear":
                    decided.pop(name, None)
                else:
                    decided[name] = step.decision
        return decided

    def touched(self) -> set[str]:
        """Return the cases that any step was about, undone ones included: where they stand is for the review to say."""
        return self._state.touched

    def _append(self, step: Step) -> bool:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab") as file:
            file.write(step.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        fsync_path(self._file.parent)
        return self._state.take(step)


def _read(file: Path) -> list[Step]:
    if not file.exists():
        return []
    data = file.read_bytes()
    whole, _, cut = data.rpartition(b"\n")
    if cut:  # the process or the machine ended while it was written
        os.truncate(file, len(data) - len(cut))
    steps = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            step = Step.model_validate(json.loads(line))
            if (step.move == "do") != (step.decision is not None):
                raise ValueError("a step without a decision")
        except (ValueError, ValidationError) as error:
            raise SetupError(f"{file}:{number} is no step of a review: {error}") from error
        steps.append(step)
    return steps
