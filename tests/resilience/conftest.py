"""Promises: each has a figure that its test measures, holds against a limit, prints, and keeps for docs/promises.md."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.resilience.promises import FIGURES, ROOT, Figures, Promise
from tests.slow_edits import processes_with

_KEPT = pytest.StashKey[Figures]()
_START_S = pytest.StashKey[float]()


@pytest.fixture
def promise(request: pytest.FixtureRequest) -> Promise:
    return Promise(request.config.stash[_KEPT])


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether this is the whole form, of `make resilience`."""
    return bool(request.config.getoption("--resilience") == "full")


@pytest.fixture(scope="session")
def cycles(request: pytest.FixtureRequest, full: bool) -> int:
    wanted = int(request.config.getoption("--cycles"))
    return wanted if full else max(1, wanted // 10)


@pytest.fixture(scope="session")
def processes() -> multiprocessing.context.ForkServerContext:
    return processes_with("tests.resilience.killed_editor")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: runs in the full form alone")
    config.stash[_KEPT], config.stash[_START_S] = Figures(), time.monotonic()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--resilience") == "full":
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    if left_out:
        items[:] = [item for item in items if not item.get_closest_marker("full")]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[Any]:
    config, new = session.config, session.config.stash[_KEPT]
    if new.figures:
        full = config.getoption("--resilience") == "full"
        place = FIGURES if full else ROOT / "var/resilience/short.json"
        new.day, new.cores = f"{datetime.now(UTC):%Y-%m-%d}", os.cpu_count() or 1
        new.seconds = round(time.monotonic() - config.stash[_START_S], 1)
        Figures.load(place).with_new(new).save(place)
    return (yield)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    figures = config.stash[_KEPT].figures
    if figures:
        terminalreporter.section("promises")
        for name, figure in sorted(figures.items()):
            terminalreporter.write_line(f"{name}: {figure.words()}")
