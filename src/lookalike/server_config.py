"""Where a TorchServe process listens, what it reads and the command line that starts it."""

import json
import math
import os
import shlex
import shutil
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from lookalike.archives import archived_version
from lookalike.config import MilvusSettings, ModelSettings, Settings
from lookalike.errors import SetupError
from lookalike.runtimes import available_cores, gpu_is_there, is_installed

INDEX_DIR = "LOOKALIKE_ROUTER_INDEX_DIR"
_INDEX_ENGINE = "LOOKALIKE_ROUTER_INDEX_ENGINE"
_WAY_TO_MODELS = "LOOKALIKE_ROUTER_MODELS"
_MODEL_URLS = tuple(f"LOOKALIKE_ROUTER_{model}_URL" for model in ("DETECTOR", "EMBEDDER", "METADATA"))
_ROUTER = "search"
_MOST_WORKERS = 8  # each holds the models; more cores than that serve a forward pass together
_WAITING_SEARCHES = 8  # under way in a router's worker while models elsewhere compute
Port = Annotated[int, Field(ge=0, le=65535)]


class ServerSettings(Settings):
    """The TorchServe process (environment prefix `LOOKALIKE_SERVER_`)."""

    model_config = SettingsConfigDict(env_prefix="LOOKALIKE_SERVER_")

    host: str = "127.0.0.1"
    port: Port = 8080  # 0: the operating system chooses
    metrics_port: Port = 8082  # 0: the operating system chooses
    heap_mb: Annotated[int, Field(ge=256)] = 1024  # 16 bodies of 20 MB at once need it; a quarter is used at rest
    threads: Annotated[int, Field(ge=0)] = 0  # of a worker's OpenMP and BLAS; 0: one a core
    ready_s: Annotated[float, Field(gt=0)] = 120
    models: str = ""  # names parted by commas: a pod's role; empty: all
    router_workers: Annotated[int, Field(ge=0)] = 0  # 0: one a core where they hold the models (8 at most), else one
    archives_dir: Path | None = None  # a folder of finished archives (.mar); none: packed from the checkout
    state_dir: Path | None = None  # log and pid file; none: the checkout's var/

    def chosen(self, archives: Mapping[str, Path]) -> dict[str, Path]:
        """Return those of `archives` that `models` names, or all.

        Raises:
            SetupError: when a named one is not there.
        """
        names = [name.strip() for name in self.models.split(",") if name.strip()] or list(archives)
        unknown = [name for name in names if name not in archives]
        if unknown:
            raise SetupError(f"LOOKALIKE_SERVER_MODELS: no model {', '.join(unknown)}", allowed=", ".join(archives))
        return {name: archives[name] for name in names}


@dataclass(frozen=True)
class ServerFiles:
    """What a server reads, and `state`, where it keeps its log and its pid file."""

    archives: Path
    config: Path
    log4j: Path
    metrics: Path
    index_dir: Path
    state: Path

    @classmethod
    def of(cls, root: Path) -> "ServerFiles":
        """Return the files of a checkout, or of an image; the environment may name other folders.

        Raises:
            SetupError: it holds a wrong setting.
        """
        settings, docker, var = ServerSettings.load(), (root / "docker").resolve(), (root / "var").resolve()
        return cls(
            archives=(settings.archives_dir or var / "archives").resolve(),
            config=docker / "config.properties",
            log4j=docker / "log4j2.xml",
            metrics=docker / "metrics.yaml",
            index_dir=Path(os.environ.get(INDEX_DIR) or var / "index").resolve(),
            state=(settings.state_dir or var).resolve(),
        )

    @property
    def logs(self) -> Path:
        """The folder of `server.log`."""
        return self.state / "logs"

    def has_index(self) -> bool:
        """Tell whether an index version is published."""
        return (self.index_dir / "CURRENT").is_file()


@dataclass(frozen=True)
class Addresses:
    """Where one server listens; `run_dir` is its private folder (sockets, unpacked archives, config.properties)."""

    host: str
    port: int
    metrics_port: int
    grpc_ports: tuple[int, int]
    run_dir: Path

    @property
    def base_url(self) -> str:
        """The inference address as a client on this machine reaches it."""
        return f"http://{self._reachable()}:{self.port}"

    @property
    def metrics_url(self) -> str:
        """The address of the Prometheus metrics."""
        return f"http://{self._reachable()}:{self.metrics_port}/metrics"

    @property
    def management_socket(self) -> Path:
        """The Unix socket of the management API."""
        return self.run_dir / "management.sock"

    def _reachable(self) -> str:
        return "127.0.0.1" if self.host == "0.0.0.0" else self.host


def choose_addresses(settings: ServerSettings, run_dir: Path) -> Addresses:
    """Return the addresses of a new server, with free ports where the settings leave the choice.

    A port found free may be taken before the server binds it; whoever starts the server tries again then.
    """
    port, metrics_port, *grpc_ports = free_ports(settings.host, 4)
    return Addresses(
        host=settings.host,
        port=settings.port or port,
        metrics_port=settings.metrics_port or metrics_port,
        grpc_ports=(grpc_ports[0], grpc_ports[1]),
        run_dir=run_dir,
    )


def free_ports(host: str, count: int) -> list[int]:
    """Return ports of `host` that nobody listens on, all different."""
    with ExitStack() as stack:
        # All are held at once, so that they differ.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((host, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def require_free(host: str, port: int, remedy: str) -> None:
    """Accept a port that can be bound.

    Raises:
        SetupError: it is taken or not this machine's, with `remedy` as what is allowed.
    """
    with socket.socket() as probe:
        # As the servers do: a port whose last connections only linger is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SetupError(f"{host}:{port} cannot be used: {error.strerror}", allowed=remedy) from error


def read_properties(text: str) -> dict[str, str]:
    """Return the keys and values of a `.properties` file."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, _, value in pairs}


def render_config(template: str, addresses: Addresses, files: ServerFiles) -> str:
    """Return config.properties with this server's addresses and paths in place of the template's.

    Raises:
        SetupError: when the template lacks one of the keys.
    """
    chosen = {
        "inference_address": f"http://{addresses.host}:{addresses.port}",
        "metrics_address": f"http://{addresses.host}:{addresses.metrics_port}",
        "management_address": f"unix:{addresses.management_socket}",
        "grpc_inference_port": str(addresses.grpc_ports[0]),
        "grpc_management_port": str(addresses.grpc_ports[1]),
        "model_store": str(files.archives),
        "metrics_config": str(files.metrics),
    }
    properties = read_properties(template)
    missing = sorted(chosen.keys() - properties.keys())
    if missing:
        raise SetupError(f"config.properties lacks {', '.join(missing)}")
    return "".join(f"{key}={value}\n" for key, value in (properties | chosen).items())


def java_command(
    models: Mapping[str, Path], addresses: Addresses, files: ServerFiles, settings: ServerSettings
) -> list[str]:
    """Write the server's private files and return its command line: the JVM itself, without TorchServe's launcher.

    Raises:
        SetupError: when Java or torchserve is not installed, or the router's archive is missing or damaged.
    """
    config, python = addresses.run_dir / "config.properties", addresses.run_dir / "python"
    text = render_config(files.config.read_text(), addresses, files)
    if _ROUTER in models:
        text += f"models={_router_entry(models[_ROUTER], settings)}\n"
    config.write_text(text)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m lookalike.worker "$@"\n')
    python.chmod(0o700)
    home = _torchserve_home()
    return [
        _java(),
        # One collector thread, and a young generation that holds the bodies of many requests between two collections.
        "-Xms256m",
        "-Xmn160m",
        f"-Xmx{settings.heap_mb}m",
        f"-XX:MaxDirectMemorySize={settings.heap_mb}m",
        "-XX:+UseSerialGC",
        # A JVM that lost a thread to this answers no more, but looks alive.
        "-XX:+ExitOnOutOfMemoryError",
        f"-Djava.io.tmpdir={addresses.run_dir}",
        f"-Dlog4j.configurationFile={files.log4j.as_uri()}",
        f"-Dmodel_server_home={home}",
        "-cp",
        f"{home}/ts/frontend/*",
        "org.pytorch.serve.ModelServer",
        *("--python", str(python), "-f", str(config), "-s", str(files.archives), "-ncs", "-m"),
        *(f"{name}={archive.name}" for name, archive in models.items()),
    ]


def _router_entry(archive: Path, settings: ServerSettings) -> str:
    """Return what TorchServe is told of the router's workers, and would take from model-config.yaml had it said so."""
    workers = router_workers(settings)
    # What a worker computes itself gains nothing from company, and a batch is answered when its last search is.
    batch = 1 if _way_to_models() == "in_process" else _WAITING_SEARCHES
    told = {"minWorkers": workers, "maxWorkers": workers, "batchSize": batch}
    return json.dumps({_ROUTER: {archived_version(archive): told}})


def router_workers(settings: ServerSettings) -> int:
    """Return the number of the router's worker processes."""
    if settings.router_workers:
        return settings.router_workers
    if _way_to_models() == "http" or _index_is_for_one_process():
        return 1
    return min(available_cores(), _MOST_WORKERS)


def _router_threads(settings: ServerSettings) -> int:
    """Return the threads of a forward pass in a router's worker: twice its share, as the others are not always busy."""
    if threads := ModelSettings.load().threads:
        return threads
    cores = available_cores()
    return min(cores, 2 * math.ceil(cores / router_workers(settings)))


def _index_is_for_one_process() -> bool:
    """Tell whether the catalogue is a file of Milvus's, which the first worker to open it keeps for itself."""
    return os.environ.get(_INDEX_ENGINE) == "milvus" and not MilvusSettings.load().is_server


def server_environment(addresses: Addresses, files: ServerFiles, settings: ServerSettings) -> dict[str, str]:
    """Return the environment of the server and its workers; what the caller's environment sets, wins."""
    cores = str(settings.threads or available_cores())
    predictions = f"{addresses.base_url}/predictions"
    defaults = {
        "LOG_LOCATION": str(files.logs),
        "METRICS_LOCATION": str(files.logs),
        _WAY_TO_MODELS: _way_to_models(),
        "LOOKALIKE_ROUTER_MODEL_THREADS": str(_router_threads(settings)),
        "LOOKALIKE_ROUTER_ARCHIVES_DIR": str(files.archives),
        "LOOKALIKE_ROUTER_DETECTOR_URL": f"{predictions}/detector",
        "LOOKALIKE_ROUTER_EMBEDDER_URL": f"{predictions}/embedder",
        "LOOKALIKE_ROUTER_METADATA_URL": f"{predictions}/metadata_creator",
        "OMP_NUM_THREADS": cores,
        "OPENBLAS_NUM_THREADS": cores,
        # Several workers share the cores: a thread that spins while it waits takes time from another's work.
        "OMP_WAIT_POLICY": "PASSIVE",
        # glibc's arenas, one a thread, keep freed image buffers: memory would creep up.
        "MALLOC_ARENA_MAX": "2",
        # 64 MB of pixels for each worker to use again: new memory for a photo of 12 MP costs 18 ms of page faults.
        "PILLOW_BLOCKS_MAX": "4",
    }
    # `files` holds what the environment says of the index, made absolute: workers run in a folder of their own.
    return defaults | os.environ | {INDEX_DIR: str(files.index_dir.resolve())}


def _way_to_models() -> str:
    """Return `in_process` where a hop to a model costs more than it gains: one machine's cores (docs/adr/0007)."""
    on_gpu = gpu_is_there() and is_installed("torch") and ModelSettings.load().device != "cpu"
    apart = on_gpu or any(url in os.environ for url in _MODEL_URLS)
    return os.environ.get(_WAY_TO_MODELS) or ("http" if apart else "in_process")


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else "java"
    if shutil.which(java) is None:
        raise SetupError(f"{java} is not installed", allowed="a Java 17 runtime, on PATH or under JAVA_HOME")
    return java


def _torchserve_home() -> Path:
    spec = find_spec("ts")
    if spec is None or spec.origin is None:
        raise SetupError("torchserve is not installed", allowed="the extra `serve`")
    return Path(spec.origin).resolve().parents[1]
