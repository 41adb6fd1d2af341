"""The page of promises: every test that it names is there, each figure has its promise, and the page is up to date."""

import re

import pytest

from tests.resilience.promises import FIGURES, PAGE, ROOT, Figure, Figures, Promise, Promised, page, promised

NAMED = sorted({test for one in promised() for test in one.tests})


@pytest.mark.parametrize("test", NAMED)
def test_a_promise_is_held_by_a_test_that_exists(test: str) -> None:
    file, _, function = test.partition("::")
    assert re.search(rf"^(async )?def {function}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_every_figure_that_is_kept_belongs_to_a_promise() -> None:
    beginnings = tuple(name for one in promised() for name in one.figures)
    assert [name for name in Figures.load(FIGURES).figures if not name.startswith(beginnings)] == []


def test_the_page_is_made_of_what_is_promised_and_measured() -> None:
    assert PAGE.read_text() == page(promised(), Figures.load(FIGURES))


def test_a_figure_stands_with_its_limit_beside_its_promise() -> None:
    figures = Figures(
        figures={
            "crowd.next": Figure(figure=1.5, unit="s", at_most=5, kept=True),
            "crowded": Figure(figure=1, unit="s", kept=True),
        }
    )
    one = Promised(trouble="It is slow.", promise="It is not.", tests=["tests/a.py::test_a"], figures=["crowd."])
    row = "| It is slow. | It is not. | crowd, next: 1.5 s (at most 5 s) | `a.py::test_a` |"
    assert page([one], figures).splitlines()[-1] == row


def test_a_figure_beyond_its_limit_fails_and_is_told() -> None:
    figures = Figures()
    with pytest.raises(AssertionError, match=r"crowd.next: 6 s \(at most 5 s\) NOT KEPT"):
        Promise(figures)("crowd.next", 6, "s", at_most=5)
    assert not figures.figures["crowd.next"].kept
