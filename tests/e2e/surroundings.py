"""What the e2e tests stand on besides the fixtures."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from lookalike.server import ServerProcess

ROOT = Path(__file__).parents[2]
# Set in the server's environment; its name matches blacklist_env_vars.
HIDDEN_SECRET = "LOOKALIKE_E2E_API_TOKEN"


def management(server: ServerProcess, method: str, path: str) -> tuple[int, Any]:
    """Ask the management API over its Unix socket."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(server.management_socket))
    connection.request(method, path)
    with connection.getresponse() as reply:
        answer = reply.status, json.loads(reply.read())
    connection.close()
    return answer
