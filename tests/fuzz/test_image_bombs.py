"""Image bombs take neither memory nor time: measured in a process of their own, and printed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.surroundings import ROOT
from tests.fuzz.image_bombs import BOMBS
from tests.unit.image_samples import SAMPLES, encode

MAX_EXTRA_MIB = 64  # beyond the body
MAX_REFUSED_MS = 200


@pytest.fixture(scope="module")
def meter() -> Iterator["subprocess.Popen[str]"]:
    """A process that decodes what it is told to; the libraries are loaded, as in a server."""
    command = [sys.executable, "-m", "tests.fuzz.decode_meter"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


def measured(meter: "subprocess.Popen[str]", path: Path) -> dict[str, float | str]:
    assert meter.stdin is not None and meter.stdout is not None
    print(path, file=meter.stdin, flush=True)
    told: dict[str, float | str] = json.loads(meter.stdout.readline())
    return told


@pytest.fixture(scope="module")
def warm_meter(meter: "subprocess.Popen[str]", tmp_path_factory: pytest.TempPathFactory) -> "subprocess.Popen[str]":
    """The same after it has read one picture of every format."""
    path = tmp_path_factory.mktemp("warm") / "picture"
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIC", "AVIF"):
        path.write_bytes(SAMPLES[name]().data)
        assert measured(meter, path)["outcome"] == "decoded"
    return meter


def test_the_meter_sees_what_a_large_picture_takes(warm_meter, tmp_path):
    path = tmp_path / "large"
    path.write_bytes(encode(Image.new("RGB", (6000, 6000)), "JPEG"))
    large = measured(warm_meter, path)
    print(f"\na JPEG of 36 MP, which is allowed: {large['ms']:.0f} ms, {large['mib']:.0f} MiB")
    assert large["outcome"] == "decoded"
    assert float(large["mib"]) > 3 * 36 * 0.9  # three bytes a pixel


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_or_harmless(warm_meter, tmp_path, name):
    bomb = BOMBS[name]()
    path = tmp_path / "bomb"
    path.write_bytes(bomb.data)
    # The quickest of three: what else runs on this machine is no promise of ours.
    runs = [measured(warm_meter, path) for _ in range(3)]
    elapsed_ms, extra_mib = min(float(run["ms"]) for run in runs), max(float(run["mib"]) for run in runs)
    print(f"\n{name}: {len(bomb.data):,} bytes, {bomb.outcome}, {elapsed_ms:.1f} ms, {extra_mib:.1f} MiB")
    assert {run["outcome"] for run in runs} == {bomb.outcome}
    assert extra_mib < MAX_EXTRA_MIB
    assert elapsed_ms < MAX_REFUSED_MS
