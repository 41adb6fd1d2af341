"""Stopping a server ends its own processes and nothing else."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.process_table import ProcessId, server_processes, wait_until_ended

SLEEP = "import time; print(1, flush=True); time.sleep(60)"


@pytest.fixture
def start():
    started = []

    def start_process(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", SLEEP, *arguments], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        process.stdout.read(1)  # its arguments can be read once it runs
        return process

    yield start_process
    for process in started:
        process.kill()
        process.communicate()


def test_a_server_is_found_by_its_private_folder(start, tmp_path):
    jvm = start(f"-Djava.io.tmpdir={tmp_path}")
    worker = start("--sock-type", "unix", "--sock-name", f"{tmp_path}/.ts.sock.9000")
    assert {process.pid for process in server_processes(tmp_path)} == {jvm.pid, worker.pid}


def test_others_that_name_the_folder_are_left_alone(start, tmp_path):
    start(str(tmp_path / "server.log"))
    start("--sock-name", f"{tmp_path}-of-another/.ts.sock.9000")
    start(f"-Djava.io.tmpdir={tmp_path}0")
    assert server_processes(tmp_path) == []


def test_a_process_of_the_same_pid_that_started_later_is_not_signalled(start):
    process = start()
    current = ProcessId.of(process.pid)
    assert current is not None
    ProcessId(process.pid, current.start_ticks - 1).send(signal.SIGKILL)
    assert not wait_until_ended([current], 0.3)


def test_a_signalled_process_ends(start):
    identity = ProcessId.of(start().pid)
    assert identity is not None
    identity.send(signal.SIGTERM)
    assert wait_until_ended([identity], 5)
    assert not identity.is_running()


def test_a_pid_that_nobody_has_is_no_process():
    limit = int(Path("/proc/sys/kernel/pid_max").read_text())
    assert ProcessId.of(limit + 1) is None
