"""A peer's environment holds what its requirements pin, and computes with the libraries that Lookalike serves with."""

import re
from pathlib import Path

import pytest

from benchmarks.peers import install
from benchmarks.peers.errors import PeerFailed
from benchmarks.peers.systems import STACKS

ROOT = Path(__file__).parents[2]
# A search's time is spent in these: with other versions of them the stacks would not be what differs.
COMPUTING = ("faiss-cpu", "numpy", "onnxruntime", "pillow", "pillow-heif", "pyarrow", "pydantic", "pydantic-core")


def pins(file):
    return dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", file.read_text(), re.MULTILINE))


@pytest.mark.parametrize("peer", STACKS)
def test_a_peer_computes_with_the_versions_of_lookalike_s_own_lock(peer):
    locked, pinned = pins(ROOT / "requirements/dev.lock"), pins(install.REQUIREMENTS / f"{peer}.txt")
    assert {name: pinned[name] for name in COMPUTING} == {name: locked[name] for name in COMPUTING}


@pytest.mark.parametrize("peer", STACKS)
def test_every_requirement_is_pinned_and_none_names_a_host_or_brings_torch(peer):
    text = (install.REQUIREMENTS / f"{peer}.txt").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert all(re.match(r"[\w.-]+==\S+", line) for line in lines)
    assert "://" not in text
    assert "torch" not in pins(install.REQUIREMENTS / f"{peer}.txt")


@pytest.mark.parametrize("peer", STACKS)
def test_the_report_names_a_version_of_each_of_a_peer_s_packages(peer):
    for package in STACKS[peer].packages:
        assert re.match(r"\d+\.", install.pinned_version(peer, package))


def test_a_package_that_is_not_pinned_is_told():
    with pytest.raises(PeerFailed, match=r"fastapi\.txt does not pin no-such-package"):
        install.pinned_version("fastapi", "no-such-package")


def test_a_missing_or_outdated_environment_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "HOME", tmp_path)
    with pytest.raises(PeerFailed, match="run with --install"):
        install.python_of("fastapi")
    (tmp_path / "fastapi").mkdir()
    installed = tmp_path / "fastapi/requirements.txt"
    installed.write_text("fastapi==0.1\n")
    with pytest.raises(PeerFailed, match=r"does not hold what fastapi\.txt names"):
        install.python_of("fastapi")
    installed.write_text((install.REQUIREMENTS / "fastapi.txt").read_text())
    assert install.python_of("fastapi") == tmp_path / "fastapi/bin/python"


def test_an_install_that_fails_gives_the_installer_s_own_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "HOME", tmp_path / "a file, not a folder" / "peers")
    (tmp_path / "a file, not a folder").write_text("")
    with pytest.raises(PeerFailed, match=r"uv venv failed: .*\n.*Not a directory"):
        install.install("fastapi")
    assert not (tmp_path / "a file, not a folder" / "peers").exists()
