"""While a server starts, its watcher says what is missing and gives up when it must."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from lookalike.errors import NotReady, SetupError
from lookalike.server_watch import dying_model, wait_until_ready, what_is_missing

READY = (200, b'{"ready": true}')
NO_INDEX = (503, json.dumps({"ready": False, "checks": {"index": "none published", "detector": "ok"}}).encode())
NO_DETECTOR = (503, json.dumps({"ready": False, "checks": {"index": "ok", "detector": "refused"}}).encode())
NO_WORKER = (503, b'{"code": 503, "type": "ServiceUnavailableException", "message": "no worker"}')


class FakeServer:
    """Answers the readiness check with one scripted reply after another, the last for ever."""

    def __init__(self, log_file: Path) -> None:
        self.log_file, self.running, self.script = log_file, True, [READY]
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = owner.script.pop(0) if len(owner.script) > 1 else owner.script[0]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.http.server_port}"

    def is_running(self) -> bool:
        return self.running


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeServer]:
    fake = FakeServer(tmp_path / "server.log")
    thread = Thread(target=fake.http.serve_forever)
    thread.start()
    yield fake
    fake.http.shutdown()
    fake.http.server_close()
    thread.join()


def wait(server: FakeServer, limit_s: float = 10, **options: bool) -> list[str]:
    said: list[str] = []
    wait_until_ready(server, 0, limit_s, said.append, **options)
    return said


def test_each_missing_part_is_said_once(server):
    server.script = [NO_WORKER, NO_DETECTOR, NO_DETECTOR, NO_INDEX, READY]
    assert wait(server) == [
        "waiting for search: does not run yet",
        "waiting for detector: refused",
        "waiting for index: none published",
    ]


def test_a_missing_index_is_waited_for_only_where_one_is_published(server):
    server.script = [NO_INDEX]
    assert wait(server, without_index=True) == []
    with pytest.raises(NotReady, match="index: none published"):
        wait(server, limit_s=0.5)


def test_a_missing_model_is_waited_for_with_or_without_an_index(server):
    server.script = [NO_DETECTOR]
    with pytest.raises(NotReady, match="detector: refused"):
        wait(server, limit_s=0.5, without_index=True)


def test_a_server_that_ended_is_not_waited_for(server):
    server.script, server.running = [NO_WORKER], False
    server.log_file.with_suffix(".out").write_text("Address already in use\n")
    with pytest.raises(SetupError, match="Address already in use"):
        wait(server)


def test_a_worker_that_keeps_dying_is_not_waited_for(server):
    server.script = [NO_WORKER]
    server.log_file.write_text(
        '{"level": "ERROR", "message": "threads: wrong"}\n'
        + '{"thread": "W-9000-embedder_1.0", "message": "Load model failed: embedder, error: Worker died."}\n' * 3
    )
    with pytest.raises(SetupError, match=r"(?s)model embedder cannot start.*threads: wrong"):
        wait(server)


DEATH = '{{"thread":"W-900{worker}-search_1.0","message":"Load model failed: search, error: Worker died."}}\n'


def test_deaths_before_this_start_do_not_count(tmp_path):
    log = tmp_path / "server.log"
    log.write_text(DEATH.format(worker=0) * 3)
    assert dying_model(log, 0) == "search"
    assert dying_model(log, log.stat().st_size) is None


def test_one_death_of_each_of_many_workers_is_no_end(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("".join(DEATH.format(worker=worker) for worker in range(8)))
    assert dying_model(log, 0) is None


def test_a_server_that_does_not_listen_is_named(server):
    assert what_is_missing("http://127.0.0.1:9") == {"server": "does not listen yet"}
    assert what_is_missing(server.base_url) == {}


def test_a_long_reason_is_told_in_one_line(server):
    server.script = [(503, json.dumps({"checks": {"detector": "answered 404: {\n" + "x" * 900}}).encode())]
    reason = what_is_missing(server.base_url)["detector"]
    assert "\n" not in reason
    assert len(reason) < 220
