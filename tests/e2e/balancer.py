"""What a Service does in a cluster: one address, behind it whichever servers are ready, one after the other."""

import http.client
import itertools
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}


class Balancer(ThreadingHTTPServer):
    """Forwards each request to the next of `targets` (base URLs), which may change at any time."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Forwarder)
        self._turns = itertools.count()
        self.targets: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_target(self) -> str:
        targets = self.targets
        return targets[next(self._turns) % len(targets)]


class _Forwarder(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        assert isinstance(self.server, Balancer)
        target = urllib.parse.urlsplit(self.server.next_target())
        connection = http.client.HTTPConnection(str(target.hostname), target.port, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request(self.command, self.path, body or None, headers)
            reply = connection.getresponse()
            data = reply.read()
        finally:
            connection.close()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _forward

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def running_balancer() -> Iterator[Balancer]:
    with Balancer() as balancer:
        thread = threading.Thread(target=balancer.serve_forever)
        thread.start()
        yield balancer
        balancer.shutdown()
        thread.join()
