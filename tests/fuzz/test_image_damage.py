"""Damaged pictures of every format end in a typed error or in pixels: no process falls, and none takes much memory."""

import re
import subprocess
import sys

from tests.e2e.surroundings import ROOT
from tests.fuzz.amount import IN_FULL

CASES = 30_000 if IN_FULL else 600


def test_whatever_is_damaged_is_told_by_a_typed_error() -> None:
    command = [sys.executable, "-m", "tests.fuzz.image_damager", "0", str(CASES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    print(f"\n{CASES:,} damaged images: {done.stdout.strip()}")
    outcomes = set(re.findall(r"'(\w+)'", done.stdout))
    assert {"decoded", "corrupt_image"} <= outcomes
    assert outcomes <= {"decoded", "corrupt_image", "unsupported_image", "image_too_large"}
