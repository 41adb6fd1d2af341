"""Runs TorchServe as one local process: started, watched until it is ready, found again, stopped."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from lookalike.errors import SetupError
from lookalike.process_table import ProcessId, server_processes, wait_until_ended
from lookalike.server_config import (
    Addresses,
    ServerFiles,
    ServerSettings,
    choose_addresses,
    java_command,
    require_free,
    server_environment,
)
from lookalike.server_watch import wait_until_ready

STATE_FILE = "server.json"
TERM_S, KILL_S = 10.0, 5.0
BIND_ATTEMPTS = 3
RUN_DIR_PREFIX = "lookalike-server-"
OTHER_PORTS = "LOOKALIKE_SERVER_HOST, LOOKALIKE_SERVER_PORT and LOOKALIKE_SERVER_METRICS_PORT choose others"

Say = Callable[[str], None]


class _State(BaseModel, extra="forbid"):
    """What `server.json` keeps of a running server."""

    pid: int
    start_ticks: int
    base_url: str
    metrics_url: str
    management_socket: Path
    run_dir: Path
    log_file: Path


@dataclass(frozen=True)
class ServerProcess:
    """A TorchServe process and where it is reached; as a context manager it stops at the end of the block."""

    base_url: str
    metrics_url: str
    management_socket: Path
    run_dir: Path
    log_file: Path
    identity: ProcessId
    state_file: Path
    child: "subprocess.Popen[bytes] | None" = None  # when this very process started it

    def is_running(self) -> bool:
        """Tell whether the JVM still runs."""
        if self.child is not None:
            self.child.poll()
        return self.identity.is_running()

    def is_older_than(self, archives: Path) -> bool:
        """Tell whether a model archive (.mar) in the folder `archives` was built after this server started."""
        started = self.state_file.stat().st_mtime
        return any(archive.stat().st_mtime > started for archive in archives.glob("*.mar"))

    def stop(self) -> None:
        """End the JVM and its workers, by force after a while, and remove their files; safe to repeat."""
        self.identity.send(signal.SIGTERM)
        wait_until_ended([self.identity], TERM_S)
        # A worker ends when its connection to the JVM closes, unless it is busy or still loading.
        rest = server_processes(self.run_dir)
        for process in rest:
            process.send(signal.SIGKILL)
        wait_until_ended([self.identity, *rest], KILL_S)
        if self.child is not None:
            self.child.wait(KILL_S)
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.state_file.unlink(missing_ok=True)

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_server(
    models: Mapping[str, Path], files: ServerFiles, settings: ServerSettings, say: Say = print
) -> ServerProcess:
    """Start TorchServe with `models` (archives by name) and return when it can answer a search.

    Where no index is published yet it returns when all else is ready: the router picks up the first one by itself.

    Raises:
        SetupError: when it cannot run: Java is missing, a port is taken, a worker dies again and again; with the log's
            last lines.
        NotReady: when it is not ready within `settings.ready_s`, naming what is missing.
    """
    with _alone(files.state):
        if running_server(files.state) is not None:
            raise SetupError("a server is already running here; stop it first")
        process, log_start = _launch(models, files, settings)
    try:
        wait_until_ready(process, log_start, settings.ready_s, say, without_index=not files.has_index())
    except BaseException:  # an interrupt too must leave nothing behind
        process.stop()
        raise
    return process


def running_server(state: Path) -> ServerProcess | None:
    """Return the server whose pid file lies in `state`, if it still runs; what is left of a dead one is removed."""
    state_file = state / STATE_FILE
    try:
        kept = _State.model_validate_json(state_file.read_bytes())
    except (OSError, ValidationError):
        return None
    process = ServerProcess(
        base_url=kept.base_url,
        metrics_url=kept.metrics_url,
        management_socket=kept.management_socket,
        run_dir=kept.run_dir,
        log_file=kept.log_file,
        identity=ProcessId(kept.pid, kept.start_ticks),
        state_file=state_file,
    )
    if process.is_running():
        return process
    process.stop()
    return None


def stop_server(state: Path) -> bool:
    """Stop the server whose pid file lies in `state`; return whether one ran."""
    process = running_server(state)
    if process is None:
        return False
    process.stop()
    return True


def become_server(models: Mapping[str, Path], files: ServerFiles, settings: ServerSettings) -> None:
    """Replace this process by the JVM, as a container's first process must: signals and its exit code are its own.

    Raises:
        SetupError: when Java or torchserve is missing, a port is taken, or temporary files cannot be executed.
    """
    addresses = _addresses(files, settings)
    command = java_command(models, addresses, files, settings)
    os.execvpe(command[0], command, server_environment(addresses, files, settings))


def _launch(models: Mapping[str, Path], files: ServerFiles, settings: ServerSettings) -> tuple[ServerProcess, int]:
    """Start the JVM; return it and the log's size before, once it has bound its ports."""
    for attempt in range(1, BIND_ATTEMPTS + 1):
        addresses = _addresses(files, settings)
        log_file = files.logs / "server.log"
        log_start = log_file.stat().st_size if log_file.exists() else 0
        process = _spawn(models, addresses, files, settings)
        if _has_bound(process) or attempt == BIND_ATTEMPTS:
            return process, log_start
        process.stop()
    raise AssertionError("unreachable")


def _addresses(files: ServerFiles, settings: ServerSettings) -> Addresses:
    for port in (settings.port, settings.metrics_port):
        require_free(settings.host, port, OTHER_PORTS)
    files.logs.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.gettempdir())
    _require_executable(temporary)
    remove_left_over(temporary)
    # Short and private (0700): a Unix socket's path may have 107 characters.
    return choose_addresses(settings, Path(tempfile.mkdtemp(prefix=RUN_DIR_PREFIX, dir=temporary)))


def remove_left_over(temporary: Path, older_than_s: float = 60) -> None:
    """Remove the private folders of killed servers: their unpacked archives would fill the disk in the end."""
    for folder in temporary.glob(f"{RUN_DIR_PREFIX}*"):
        status = folder.lstat()
        # A younger one may belong to a server whose JVM is about to start.
        old = time.time() - status.st_mtime > older_than_s
        if old and status.st_uid == os.getuid() and not server_processes(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _require_executable(temporary: Path) -> None:
    # The JVM unpacks a native library there and starts its workers from there: it would fail without naming the cause.
    if os.statvfs(temporary).f_flag & os.ST_NOEXEC:
        raise SetupError(f"{temporary} is mounted noexec", allowed="TMPDIR: a folder whose files may be executed")


def _spawn(
    models: Mapping[str, Path], addresses: Addresses, files: ServerFiles, settings: ServerSettings
) -> ServerProcess:
    command = java_command(models, addresses, files, settings)
    # In the background the rolling file is the log; stdout keeps what the JVM itself prints.
    command.insert(1, "-Dlookalike.console=off")
    with (files.logs / "server.out").open("wb") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=addresses.run_dir,
            env=server_environment(addresses, files, settings),
            start_new_session=True,  # Ctrl-C in the terminal is not meant for it
        )
    identity = ProcessId.of(child.pid) or ProcessId(child.pid, -1)
    process = ServerProcess(
        base_url=addresses.base_url,
        metrics_url=addresses.metrics_url,
        management_socket=addresses.management_socket,
        run_dir=addresses.run_dir,
        log_file=files.logs / "server.log",
        identity=identity,
        state_file=files.state / STATE_FILE,
        child=child,
    )
    _keep(process)
    return process


def _keep(process: ServerProcess) -> None:
    """Write the pid file, whole or not at all."""
    state = _State(
        pid=process.identity.pid,
        start_ticks=process.identity.start_ticks,
        base_url=process.base_url,
        metrics_url=process.metrics_url,
        management_socket=process.management_socket,
        run_dir=process.run_dir,
        log_file=process.log_file,
    )
    partial = process.state_file.with_suffix(".partial")
    partial.write_text(json.dumps(state.model_dump(mode="json"), indent=2) + "\n")
    os.replace(partial, process.state_file)


def _has_bound(process: ServerProcess) -> bool:
    """Wait until the management socket, which is bound last, exists; False when the JVM ended before."""
    while process.is_running():
        if process.management_socket.exists():
            return True
        time.sleep(0.05)
    return False


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Keep two starts apart.

    Raises:
        SetupError: when another one is under way.
    """
    state.mkdir(parents=True, exist_ok=True)
    with (state / "server.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SetupError("another start is under way") from error
        yield
