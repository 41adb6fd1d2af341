"""docs/promises.md: every test that it names is there, every figure is measured, and it is what the last run wrote."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.resilience.promises import FIGURES, PAGE, ROOT, Figure, Figures, page, promised

TESTS = sorted({test for one in promised() for test in one.tests})
TROUBLES = 20


@cache
def functions_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@cache
def names_measured() -> set[str]:
    """Return the names that tests give to `promise`; a part that is filled in at run time is `*`."""
    found = set()
    for path in (ROOT / "tests/resilience").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "promise":
                found.add(pattern_of(node.args[0]))
    return found


def pattern_of(name: ast.expr) -> str:
    if isinstance(name, ast.Constant):
        return str(name.value)
    assert isinstance(name, ast.JoinedStr)
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in name.values)


def matches(pattern: str, name: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", r"\w+"), name) is not None


@pytest.mark.parametrize("test", TESTS)
def test_every_test_that_is_named_is_there(test: str) -> None:
    file, name = test.split("::")
    assert name in functions_in(ROOT / file)


def test_every_trouble_that_users_report_has_its_promise() -> None:
    troubles = [one.trouble for one in promised()]
    assert len(troubles) == len(set(troubles)) >= TROUBLES
    assert all(one.tests for one in promised())


def test_every_figure_on_the_page_is_measured_and_every_measured_one_is_on_it() -> None:
    named = {name for one in promised() for name in one.figures}
    measured = names_measured()
    assert [name for name in named if not any(matches(pattern, name) for pattern in measured)] == []
    assert [pattern for pattern in measured if not any(matches(pattern, name) for name in named)] == []


def test_every_figure_that_was_kept_has_a_place_and_every_place_a_figure() -> None:
    named = {name for one in promised() for name in one.figures}
    assert Figures.load(FIGURES).figures.keys() == named


def test_the_page_is_that_of_the_last_run() -> None:
    assert PAGE.read_text() == page(promised(), Figures.load(FIGURES))


def test_every_promise_was_kept() -> None:
    assert [name for name, one in Figures.load(FIGURES).figures.items() if not one.kept] == []


def test_a_figure_beyond_its_limit_is_told_as_such() -> None:
    broken = Figure(figure=11, unit="s", at_most=10, kept=False)
    assert broken.words() == "11 s (at most 10 s) NOT KEPT"
    assert Figure(figure=0.5, unit="s", kept=True).words() == "0.5 s"
