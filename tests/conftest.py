"""What all tests share: generated cases are the same in every CI run, and how far the tests of resilience go."""

import os

import pytest
from hypothesis import settings

# One server for every folder of tests that needs a real one.
pytest_plugins = ("tests.served",)

settings.register_profile("ci", derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("resilience")
    group.addoption("--resilience", choices=["short", "full"], default="short", help="full: as `make resilience`")
    group.addoption("--requests", type=int, default=10_000, help="requests of the test for leaks")
    group.addoption("--cycles", type=int, default=100, help="kills of writers (a tenth of it in the short form)")
