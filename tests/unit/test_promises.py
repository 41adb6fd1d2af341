"""The page of promises: every test that it names is there, and figures stand beside the promise that they belong to."""

import re

import pytest

from tests.e2e.surroundings import ROOT
from tests.resilience.promises import PAGE, Held, page, read_promises

PROMISES = read_promises(ROOT)
NAMED = sorted({test for group in PROMISES.values() for held in group for test in held.tests})


@pytest.mark.parametrize("test", NAMED)
def test_a_promise_is_held_by_a_test_that_exists(test: str) -> None:
    file, _, function = test.partition("::")
    assert re.search(rf"^(async )?def {function}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_the_page_shows_each_figure_beside_its_promise() -> None:
    listed = [
        Held(promise="It holds.", tests=("tests/a.py::test_a",)),
        Held(promise="And so on.", tests=("tests/b.py::test_b",)),
    ]
    figures = {"tests/a.py::test_a[x]": "3 ms", "tests/a.py::test_a[y]": "4 ms", "tests/a.py::test_ab": "no"}
    assert page({"Faults": listed}, figures).splitlines()[-2:] == [
        "| It holds. | [`test_a`](../tests/a.py) | x: 3 ms<br>y: 4 ms |",
        "| And so on. | [`test_b`](../tests/b.py) |  |",
    ]


def test_the_page_in_docs_is_of_these_promises() -> None:
    written = (ROOT / PAGE).read_text()
    assert [held.promise for group in PROMISES.values() for held in group if held.promise not in written] == []
