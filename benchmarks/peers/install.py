"""Gives each peer a virtual environment of its own: its pinned packages, and this project without torch."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.errors import PeerFailed
from benchmarks.private_server import ROOT

REQUIREMENTS = Path(__file__).parent / "requirements"
HOME = ROOT / "var/peers"
LAST_LINES = 5


def environment_of(peer: str) -> Path:
    """Return the folder of a peer's virtual environment."""
    return HOME / peer


def python_of(peer: str) -> Path:
    """Return the interpreter of a peer's environment.

    Raises:
        PeerFailed: when the environment is missing, or older than the requirements.
    """
    installed, wanted = environment_of(peer) / "requirements.txt", REQUIREMENTS / f"{peer}.txt"
    if not installed.exists() or installed.read_text() != wanted.read_text():
        raise PeerFailed(f"{environment_of(peer)} does not hold what {wanted.name} names: run with --install")
    return environment_of(peer) / "bin/python"


def pinned_version(peer: str, package: str) -> str:
    """Return the version of `package` in a peer's requirements."""
    found = re.search(rf"^{re.escape(package)}==(\S+)", (REQUIREMENTS / f"{peer}.txt").read_text(), re.MULTILINE)
    if found is None:
        raise PeerFailed(f"{peer}.txt does not pin {package}")
    return found[1]


def install(peer: str) -> None:
    """Make a peer's environment, or bring it up to date.

    Raises:
        PeerFailed: with the installer's last lines.
    """
    uv, environment, wanted = Path(sys.executable).with_name("uv"), environment_of(peer), REQUIREMENTS / f"{peer}.txt"
    if not uv.exists():
        raise PeerFailed(f"{uv} is not there: make setup installs it")
    python = environment / "bin/python"
    _run("uv venv", uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, environment)
    _run("uv pip sync", uv, "pip", "sync", "--quiet", "--python", python, wanted)
    _run("uv pip install", uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--editable", ROOT)
    shutil.copy(wanted, environment / "requirements.txt")  # last: an install that broke off does not count


def _run(what: str, *command: str | Path) -> None:
    finished = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if finished.returncode != 0:
        said = "\n".join(finished.stderr.splitlines()[-LAST_LINES:])
        raise PeerFailed(f"{what} failed: {said}")
