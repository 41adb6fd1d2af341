"""What is promised (promises.yaml), what was measured (docs/promises.json), and the page of both: docs/promises.md.

`python -m tests.resilience.promises` writes the page, as `make resilience` does after its tests.
"""

import json
from pathlib import Path

import yaml
from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
PROMISES = Path(__file__).with_name("promises.yaml")
FIGURES = ROOT / "docs/promises.json"
PAGE = ROOT / "docs/promises.md"

HEAD = """# What is promised, and how it is known

Each line is a trouble that users of image search and of model servers report, what Lookalike promises instead, and the
tests that hold it to that. Where a promise has a figure, it is the one that the last `make resilience` measured, with
its limit. That run writes this page, from [promises.yaml](../tests/resilience/promises.yaml) and
[promises.json](promises.json). {measured}

`make test` runs the short form: fewer cycles, no server under load. `make resilience` runs all of it.

| trouble | promise | figure (limit) | tests |
|---|---|---|---|
"""


class Figure(BaseModel, extra="forbid"):
    """One measured figure and its limit."""

    figure: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    kept: bool

    def words(self) -> str:
        """Return `0.42 s (at most 10 s)`."""
        limits = [("at most", self.at_most), ("at least", self.at_least)]
        told = ", ".join(f"{word} {limit:g} {self.unit}" for word, limit in limits if limit is not None)
        return f"{self.figure:g} {self.unit}" + (f" ({told})" if told else "") + ("" if self.kept else " NOT KEPT")


class Figures(BaseModel, extra="forbid"):
    """The figures of the last run that measured each, by name."""

    day: str = ""
    cores: int = 0
    seconds: float = 0
    figures: dict[str, Figure] = {}

    @classmethod
    def load(cls, path: Path) -> "Figures":
        """Return what a file keeps; nothing where there is none."""
        return cls.model_validate_json(path.read_bytes()) if path.exists() else cls()

    def with_new(self, new: "Figures") -> "Figures":
        """Return these figures with those of a new run in their place."""
        return new.model_copy(update={"figures": {**self.figures, **new.figures}})

    def save(self, path: Path) -> None:
        """Write the file, names in order."""
        path.parent.mkdir(parents=True, exist_ok=True)
        told = self.model_dump(mode="json", exclude_none=True)
        path.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")


class Promise:
    """Holds a figure against its limit."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def __call__(
        self, name: str, figure: float, unit: str, *, at_most: float | None = None, at_least: float | None = None
    ) -> None:
        """Keep `figure` under `name`, and fail when it is beyond its limit; without a limit it is only reported."""
        kept = (at_most is None or figure <= at_most) and (at_least is None or figure >= at_least)
        told = Figure(figure=round(figure, 3), unit=unit, at_most=at_most, at_least=at_least, kept=kept)
        self._figures.figures[name] = told
        assert kept, f"{name}: {told.words()}"


class Promised(BaseModel, extra="forbid"):
    """One line of promises.yaml; `figures` are names that its tests give to `promise`."""

    trouble: str
    promise: str
    tests: list[str]
    figures: list[str] = []


def promised() -> list[Promised]:
    """Return every promise, in the order of the file."""
    return [Promised.model_validate(one) for one in yaml.safe_load(PROMISES.read_text())]


def page(promises: list[Promised], figures: Figures) -> str:
    """Return docs/promises.md."""
    measured = "Nothing was measured yet."
    if figures.day:
        measured = f"It ran on {figures.day} on {figures.cores} cores, for {figures.seconds / 60:.0f} minutes."
    return HEAD.format(measured=measured) + "".join(f"| {' | '.join(_cells(one, figures))} |\n" for one in promises)


def _cells(one: Promised, figures: Figures) -> tuple[str, str, str, str]:
    measured = [
        f"{name.replace('_', ' ')}: {figures.figures[name].words()}" for name in one.figures if name in figures.figures
    ]
    return one.trouble, one.promise, "<br>".join(measured), "<br>".join(f"`{_short(test)}`" for test in one.tests)


def _short(test: str) -> str:
    return test.removeprefix("tests/")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(promised(), Figures.load(FIGURES)))


if __name__ == "__main__":
    main()
