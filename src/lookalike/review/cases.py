"""A case is an image with the label it has, the label that a model gives it, and what a person decided of it."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lookalike.review.journal import Decision


@dataclass(frozen=True)
class Case:
    """One image to look at.

    `label` is what the data say ("" where they say nothing), `guess` what a model says with `score` (0 to 1), `support`
    the model's score of `label`: the smaller, the harder. `why` names the kind of trouble, `place` where it is listed.
    """

    name: str
    path: Path
    label: str
    guess: str
    score: float
    support: float
    why: str
    place: str


class Source(Protocol):
    """Where cases come from and where decisions go."""

    @property
    def name(self) -> str:
        """What the page calls it."""

    @property
    def journal_file(self) -> Path:
        """Where decisions are kept, beside the data."""

    @property
    def labels(self) -> list[str]:
        """What a case may be labelled."""

    @property
    def cases(self) -> list[Case]:
        """All cases, the hardest first; a case is known by its `name`."""

    def export(self, decisions: dict[str, Decision], touched: Set[str]) -> list[Path]:
        """Write the data with the decisions in them; return the files that changed. What was there is kept beside.

        A case in `touched` without a decision gets back what it had; all others stay as the files have them now.
        """


def trouble(label: str, guess: str, score: float, threshold: float) -> str:
    """Return why a case is worth a look: `disagrees`, `unsure`, `unlabelled`; or `agrees`."""
    if not label:
        return "unlabelled" if score >= threshold else "unsure"
    if guess and guess != label:
        return "disagrees" if score >= threshold else "unsure"
    return "agrees" if score >= threshold else "unsure"


def hardest_first(cases: Sequence[Case]) -> list[Case]:
    """Return the cases in the order of looking: the least supported label first."""
    return sorted(cases, key=lambda case: (case.support, case.name))
