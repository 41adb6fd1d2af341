"""What all tests share: generated cases are the same in every CI run, and new ones on a developer's machine."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# One server for every folder of tests that needs a real one.
pytest_plugins = ("tests.served",)
