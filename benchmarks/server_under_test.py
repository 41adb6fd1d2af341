"""The server that a measurement is of: one of its own, or the one that `--host` names; and what it runs on."""

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from benchmarks.budgets import Budgets, Machine
from benchmarks.command import positive_count
from benchmarks.hardware import Hardware, this_hardware
from benchmarks.private_server import ITEMS, private_server
from lookalike.errors import NotReady, SetupError
from lookalike.server import ServerProcess
from lookalike.server_watch import what_is_missing

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def add_server_options(parser: ArgumentParser) -> None:
    """Add the options that choose the server and the hardware it runs on."""
    parser.add_argument("--host", help="URL of a running server; a private one is started when left out")
    parser.add_argument("--items", type=positive_count, default=ITEMS, help="in the private server's index")
    parser.add_argument(
        "--machine", help="the entry of budgets.yaml to judge by; for a server elsewhere, what it runs on"
    )


@contextmanager
def server_under_test(host: str | None, items: int) -> Iterator[tuple[str, ServerProcess | None]]:
    """Yield the base URL, and the process where the server is a private one.

    Raises:
        SetupError: `host` is no URL, or the private server cannot start.
        NotReady: it does not answer, or says that it is not ready.
    """
    if host is None:
        with private_server(items) as (server, _):
            yield server.base_url, server
        return
    url = urlsplit(host)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise SetupError(f"--host {host} is no URL", allowed="http://NAME:PORT")
    missing = what_is_missing(host.rstrip("/"))
    if missing:
        told = "; ".join(f"{name}: {state}" for name, state in missing.items())
        raise NotReady(f"{host} is not ready: {told}")
    yield host.rstrip("/"), None


def judged_by(budgets: Budgets, host: str | None, machine_name: str | None) -> tuple[Hardware | None, Machine | None]:
    """Return what the server runs on, as far as it is known, and the entry of the budgets to hold beside it.

    A server elsewhere runs on what `machine_name` says; one on this machine runs on this machine, whatever it says.

    Raises:
        SetupError: there is no machine of that name.
    """
    named = budgets.machine(machine_name) if machine_name else None
    if host is not None and urlsplit(host).hostname not in _LOOPBACK:
        return (named.hardware, named) if named else (None, None)
    hardware = this_hardware()
    return hardware, named or budgets.machine_of(hardware)
