"""A bulk run on Ray Data: tasks prepare parts, actors embed them, tasks keep them; a broken run is started again."""

import importlib
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lookalike.bulk.claims import Claims
from lookalike.bulk.embedder import BulkEmbedder, BulkOptions
from lookalike.bulk.finish import finish
from lookalike.bulk.output import BulkOutput, BulkPlan, Summary
from lookalike.bulk.pinned_list import write_list
from lookalike.bulk.ray_session import Cluster, ray_session, told_plainly
from lookalike.bulk.steps import Embed, EmbedAndKeep, claim_of, keep_row, prepare_row
from lookalike.delivery.store import open_store
from lookalike.delivery.store_file import is_address
from lookalike.errors import SetupError
from lookalike.progress import progress_shown

_MOST_BLOCKS = 1000  # of the list of parts: a block is a task that prepares one part after the other
_ITEMS_A_REGISTRY = 10_000_000  # about 2 GB of claims
_ROUNDS, _LOOK_S = 3, 2.0
_KEEP_CPUS, _KEEPERS = 0.25, 4  # tasks that write mostly wait


def embed_catalogue(
    source: str,
    levels: Sequence[str],
    output_url: str,
    embedder: BulkEmbedder,
    options: BulkOptions,
    cluster: Cluster,
) -> Summary:
    """Embed all images of `source` into Parquet files at `output_url`; what an earlier run has finished stays.

    Raises:
        SetupError: the output is of another source or embedder, or the extra `bulk` is not installed.
        StoreError: a store refuses or does not answer.
    """
    output = BulkOutput(open_store(_on_any_machine(output_url)))
    plan = _settled_plan(_on_any_machine(source), levels, output, embedder, options)
    for _ in range(_ROUNDS):
        waiting = sorted(set(range(plan.parts)) - output.finished())
        if waiting:
            with ray_session(cluster) as ray:
                _check_room(ray, options, cluster.wait_s)
                _run(ray, plan, output, waiting, embedder, options)
        if (summary := finish(output, plan)) is not None:
            return summary
    raise SetupError(f"{output_url}: parts are damaged again and again; does another run write there?")


def _on_any_machine(place: str) -> str:
    return place if is_address(place) else os.path.abspath(place)


def _settled_plan(
    source: str, levels: Sequence[str], output: BulkOutput, embedder: BulkEmbedder, options: BulkOptions
) -> BulkPlan:
    """Return the plan of the output, which begins with this run when there is none.

    Raises:
        SetupError: the output was begun with something else, named.
    """
    own = BulkPlan(
        source=source,
        levels=list(levels),
        embedder=embedder.name,
        fingerprint=embedder.fingerprint,
        dim=embedder.dim,
        preparation=embedder.preparation,
        part_items=options.part_items,
        items=1,
        ignored_files=0,
    )
    begun = output.plan()
    if begun is None:
        listed = write_list(source, levels, output, options.part_items)
        begun = own.model_copy(update={"items": listed.items, "ignored_files": listed.ignored_files})
        output.settle(begun)
    if differences := begun.differences(own):
        raise SetupError(
            f"{output.store.url} was begun with something else: {'; '.join(differences)}; take another folder"
        )
    return begun


def _run(
    ray: Any, plan: BulkPlan, output: BulkOutput, waiting: list[int], embedder: BulkEmbedder, options: BulkOptions
) -> None:
    """Prepare, embed and keep the parts that are `waiting`."""
    claim = _claims(ray, plan, output)
    url = output.store.url
    data = importlib.import_module("ray.data")
    parts = data.from_items([{"part": part} for part in waiting], override_num_blocks=min(len(waiting), _MOST_BLOCKS))
    prepared = parts.map(partial(prepare_row, url=url, plan=plan, embedder=embedder, options=options, claim=claim))
    actors = partial(
        prepared.map_batches,
        fn_constructor_args=[embedder, options, url],
        batch_size=1,
        compute=data.ActorPoolStrategy(size=options.actors),
        num_cpus=options.cpus_per_actor,
    )
    if options.gpus_per_actor:
        # Ray prepares and keeps in tasks of their own, on any machine: no GPU waits for an image or a store.
        embedded = actors(Embed, num_gpus=options.gpus_per_actor)
        done = embedded.map(partial(keep_row, url=url), num_cpus=_KEEP_CPUS, compute=data.TaskPoolStrategy(_KEEPERS))
    else:
        done = actors(EmbedAndKeep)
    with progress_shown("embedding", plan.items) as advance, told_plainly():
        advance((plan.parts - len(waiting)) * plan.part_items)
        for row in done.iter_rows():
            if row["error"]:
                raise SetupError(row["error"])
            advance(row["items"])


def _check_room(ray: Any, options: BulkOptions, wait_s: float) -> None:
    """Wait for the machines that the actors need: Ray itself would wait for them without end.

    Raises:
        SetupError: naming what the actors need and what the cluster has.
    """
    cores = options.actors * options.cpus_per_actor + (1 + _KEEP_CPUS if options.gpus_per_actor else 0)
    gpus = options.actors * options.gpus_per_actor
    end_s = time.monotonic() + wait_s
    while True:
        there = ray.cluster_resources()
        if cores <= there.get("CPU", 0) and gpus <= there.get("GPU", 0):
            return
        if time.monotonic() >= end_s:
            break
        time.sleep(_LOOK_S)
    raise SetupError(
        f"{options.actors} actors need {cores:g} cores and {gpus:g} GPUs in all; "
        f"the cluster has {there.get('CPU', 0):g} and {there.get('GPU', 0):g}",
        allowed="fewer actors, or less for each (0.5 is a share)",
    )


def _claims(ray: Any, plan: BulkPlan, output: BulkOutput) -> Callable[[int, Sequence[bytes]], list[bool]]:
    """Start the registries of claims, which know what the finished parts hold."""
    count = -(-plan.items // _ITEMS_A_REGISTRY)
    registries = [ray.remote(num_cpus=0)(Claims).remote() for _ in range(count)]
    claim = partial(claim_of, registries)
    reports = output.reports()
    for report in reports:
        claim(report.part, [bytes.fromhex(key) for key in report.failed])
    for report, table in output.tables("embeddings", reports, ["content_sha256"]):
        claim(report.part, table["content_sha256"].to_pylist())
    return claim
