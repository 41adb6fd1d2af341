"""What is promised, which test holds it, and the page that says so: docs/promises.md."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel

Figures = dict[str, str]

LISTED = Path("tests/resilience/promises.yaml")
KEPT = Path("tests/resilience/figures.json")
PAGE = Path("docs/promises.md")


class Held(BaseModel, extra="forbid", frozen=True):
    """One promise, in the words of who relies on it, and the tests that hold it: `path::function`."""

    promise: str
    tests: tuple[str, ...]


def read_promises(root: Path) -> dict[str, list[Held]]:
    """Return the promises by their group."""
    groups = yaml.safe_load((root / LISTED).read_text())
    return {group: [Held.model_validate(one) for one in listed] for group, listed in groups.items()}


def write_page(root: Path, figures: Mapping[str, str]) -> None:
    """Write the page; figures of tests that did not run this time stay as they were kept."""
    kept_file = root / KEPT
    kept: Figures = json.loads(kept_file.read_text()) if kept_file.exists() else {}
    kept |= figures
    kept_file.write_text(json.dumps(dict(sorted(kept.items())), indent=2) + "\n")
    (root / PAGE).write_text(page(read_promises(root), kept))


def page(promises: Mapping[str, Sequence[Held]], figures: Mapping[str, str]) -> str:
    """Return docs/promises.md."""
    lines = [
        "# What Lookalike promises, and the test that holds each promise",
        "",
        "Written by `make resilience`, which runs the tests with figures at their full size; all others, and a short",
        "form of these, run in `make test`. A figure is the last one that was measured, on two cores.",
    ]
    for group, listed in promises.items():
        lines += ["", f"## {group}", "", "| promise | held by | last figure |", "|---|---|---|"]
        for held in listed:
            tests = "<br>".join(f"[`{test.rpartition('::')[2]}`](../{test.partition('::')[0]})" for test in held.tests)
            found = [line for test in held.tests for line in _figures_of(test, figures)]
            lines.append(f"| {held.promise} | {tests} | {'<br>'.join(found)} |")
    return "\n".join(lines) + "\n"


def _figures_of(test: str, figures: Mapping[str, str]) -> list[str]:
    """Return the figures of a test, those of its parameters with their name."""
    found = []
    for node, figure in sorted(figures.items()):
        name, bracket, parameter = node.partition("[")
        if name == test:
            found.append(f"{parameter.rstrip(']')}: {figure}" if bracket else figure)
    return found
