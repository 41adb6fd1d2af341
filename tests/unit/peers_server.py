"""A small real HTTP server that answers searches from a table, for the tests of the comparison."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from benchmarks.peers.load import HEADER_LENGTH, Endpoint

WAIT_S = 10.0


def answer_to(photo: bytes) -> dict[str, Any]:
    """Return an answer that depends on the photo."""
    hits = [{"item_id": photo.decode(), "similarity": 0.5}]
    return {"subject": {"box": [0.4, 0.4, 9.6, 9.6], "source": "detector"}, "hits": hits}


@dataclass
class TableSystem:
    """A `System` of its own name; `status`, `prefix` and `wrong` make it misbehave."""

    name: str
    status: int = 200
    prefix: bytes = b""  # a header in front of the answer, as Triton has it
    wrong: frozenset[bytes] = frozenset()  # photos that it answers as if they were another
    photos: list[bytes] = field(default_factory=list)  # that it was asked about
    waits_for: int = 0  # connections that must be there before a photo is answered
    connections: int = 0
    turns: int = 0

    @contextmanager
    def serving(self, photo: bytes) -> Iterator[Endpoint]:
        system = self
        system.turns += 1
        connected = threading.Condition()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with connected:
                    system.connections += 1
                    connected.notify_all()

            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers["content-length"]))
                with connected:
                    connected.wait_for(lambda: system.connections >= system.waits_for, WAIT_S)
                system.photos.append(asked)
                answer = answer_to(b"another" if asked in system.wrong else asked)
                body = system.prefix + json.dumps(answer).encode()
                self.send_response(system.status)
                self.send_header("content-length", str(len(body)))
                if system.prefix:
                    self.send_header(HEADER_LENGTH, str(len(system.prefix)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield Endpoint(f"127.0.0.1:{server.server_port}", "/search")
            finally:
                server.shutdown()
                thread.join()
