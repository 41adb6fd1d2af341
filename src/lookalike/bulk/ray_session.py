"""Ray as a run uses it: a cluster that is there or one of this machine, quiet, and its errors told as our own."""

import importlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import BaseModel, Field

from lookalike.errors import SetupError


class Cluster(BaseModel, extra="forbid", frozen=True):
    """Where Ray runs: the cluster at an address, or one that is started on this machine and ends with the run."""

    address: str | None = None
    cpus: Annotated[int, Field(ge=1)] | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None  # None: as many as Ray sees
    object_store_bytes: Annotated[int, Field(ge=80_000_000)] | None = None
    wait_s: Annotated[float, Field(ge=0)] = 0  # for machines that have not joined yet


@contextmanager
def ray_session(cluster: Cluster) -> Iterator[Any]:
    """Yield the module `ray`, connected; `RAY_ADDRESS` names a cluster where `cluster` names none.

    Raises:
        SetupError: the extra `bulk` is not installed, or the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when ray starts: nothing is reported to its makers
    try:
        ray = importlib.import_module("ray")
        data = importlib.import_module("ray.data")
    except ImportError as error:
        raise SetupError(f"Ray is not installed: {error}", allowed="the extra `bulk`") from error
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address := cluster.address or os.environ.get("RAY_ADDRESS"):
        _connect(ray, address=address, **quiet)
    else:
        sizes = {"num_cpus": cluster.cpus, "num_gpus": cluster.gpus, "object_store_memory": cluster.object_store_bytes}
        _connect(ray, address="local", include_dashboard=False, **sizes, **quiet)
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, **options: Any) -> None:
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SetupError(f"Ray cannot be started or reached: {' '.join(str(error).split())[:300]}") from error


@contextmanager
def told_plainly() -> Iterator[None]:
    """Turn a failure of Ray's into one line.

    Raises:
        SetupError: with the project's own words where they are in what Ray tells, as of an actor that cannot start.
    """
    errors = importlib.import_module("ray.exceptions")
    try:
        yield
    except errors.RayError as error:
        text = str(error)
        own = re.findall(r"^lookalike\.errors\.\w+: (.+)$", text, re.MULTILINE)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        told = own[-1] if own else lines[-1] if lines else type(error).__name__
        raise SetupError(f"the run broke off: {told}; start it again to go on") from error
