"""The gateway in the background: what keeps it from starting is told, and nothing is left behind."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from lookalike.errors import SetupError
from lookalike.gateway.commands import end_the_one_in_the_background
from lookalike.gateway.process import STATE_FILE, GatewayProcess, running_gateway, start_gateway, stop_gateway
from lookalike.process_table import ProcessId


def kept(folder, pid: int, start_ticks: int) -> None:
    process = GatewayProcess(pid=pid, start_ticks=start_ticks, base_url="http://127.0.0.1:9", log_file=folder / "log")
    (folder / STATE_FILE).write_text(process.model_dump_json())


def test_a_gateway_that_ends_while_it_starts_is_told_with_its_log(tmp_path):
    with pytest.raises(SetupError, match=r"ended while it started:\n(.|\n)*No such option"):
        start_gateway(["--no-such-option"], "127.0.0.1", 0, tmp_path)
    assert running_gateway(tmp_path) is None and not (tmp_path / STATE_FILE).exists()


def test_a_port_that_is_taken_is_told_before_anything_is_started(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SetupError, match=f"127.0.0.1:{port} cannot be used") as told:
            start_gateway([], "127.0.0.1", port, tmp_path)
    assert "LOOKALIKE_GATEWAY_PORT" in str(told.value.as_dict()["allowed"])
    assert not (tmp_path / STATE_FILE).exists()


def test_a_process_that_got_the_pid_of_a_gateway_is_left_alone(tmp_path):
    this = ProcessId.of(os.getpid())
    assert this is not None
    kept(tmp_path, this.pid, this.start_ticks - 1)
    assert running_gateway(tmp_path) is None
    assert stop_gateway(tmp_path) is False
    assert not (tmp_path / STATE_FILE).exists()


def test_one_that_runs_and_does_not_answer_is_found(tmp_path):
    this = ProcessId.of(os.getpid())
    assert this is not None
    kept(tmp_path, this.pid, this.start_ticks)
    found = running_gateway(tmp_path)
    assert found is not None and found.identity == this and not found.answers()


def test_a_damaged_state_file_is_no_gateway(tmp_path):
    (tmp_path / STATE_FILE).write_text("{")
    assert running_gateway(tmp_path) is None


def test_a_page_in_front_takes_the_place_of_the_one_in_the_background_but_not_its_own(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        identity = ProcessId.of(other.pid)
        assert identity is not None
        kept(tmp_path, identity.pid, identity.start_ticks)
        end_the_one_in_the_background(tmp_path)
        assert other.wait(10) == -signal.SIGTERM
    this = ProcessId.of(os.getpid())
    assert this is not None
    kept(tmp_path, this.pid, this.start_ticks)
    end_the_one_in_the_background(tmp_path)
    assert running_gateway(tmp_path) is not None
