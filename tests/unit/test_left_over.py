"""What a killed server left in the temporary folder is removed by the next start, and nothing else is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.server import RUN_DIR_PREFIX, remove_left_over


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    folder = tmp_path / f"{RUN_DIR_PREFIX}abc"
    folder.mkdir()
    (folder / "config.properties").touch()
    os.utime(folder, (0, 0))
    return folder


def test_an_old_folder_without_a_server_is_removed(old_folder):
    remove_left_over(old_folder.parent)
    assert not old_folder.exists()


def test_a_folder_that_a_server_uses_stays(old_folder):
    code = "print(1, flush=True); import time; time.sleep(60)"
    command = [sys.executable, "-c", code, f"-Djava.io.tmpdir={old_folder}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.read(1)
        remove_left_over(old_folder.parent)
        server.kill()
    assert old_folder.exists()


def test_a_folder_of_a_server_that_is_about_to_start_stays(old_folder):
    os.utime(old_folder)
    remove_left_over(old_folder.parent)
    assert old_folder.exists()


def test_other_folders_stay(old_folder):
    other = old_folder.parent / "lookalike-of-another-kind"
    other.mkdir()
    os.utime(other, (0, 0))
    remove_left_over(old_folder.parent)
    assert other.exists()
