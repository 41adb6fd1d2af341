"""The commands `lookalike embed` and `lookalike index load`."""

from pathlib import Path
from typing import Annotated

import typer

from lookalike.bulk.embedder import BulkEmbedder, BulkOptions
from lookalike.bulk.job import embed_catalogue
from lookalike.bulk.load import load_embeddings
from lookalike.bulk.output import PROBLEMS, BulkOutput
from lookalike.bulk.ray_session import Cluster
from lookalike.config import IndexSettings
from lookalike.delivery.store import open_store
from lookalike.index.commands import INDEX_DIR, LEVELS, MODEL_DIR, Duplicates, IndexDir, KeepVersions, Levels, names_in
from lookalike.index.manifest import WantedKind
from lookalike.index.output import print_edit

index = typer.Typer()

OutputUrl = Annotated[str, typer.Argument(metavar="OUTPUT", help="A folder, or an address in a store.")]


def embed(
    source: Annotated[
        str, typer.Argument(help="A folder of images or a table, of this machine or of a store (s3://bucket/images).")
    ],
    output: OutputUrl,
    model: Annotated[
        Path, typer.Option("--model", help="The embedder: its built folder, or its archive; the same on every machine.")
    ] = MODEL_DIR,
    levels: Levels = LEVELS,
    part_items: Annotated[int, typer.Option(min=1, max=8192, help="Items between two checkpoints.")] = 512,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a task that read and decode images.")] = 4,
    batch: Annotated[int, typer.Option(min=1, max=64, help="Images embedded at once.")] = 32,
    actors: Annotated[int, typer.Option(min=1, help="Processes that embed, each with the network.")] = 1,
    cpus_per_actor: Annotated[float, typer.Option(min=0.1)] = 1,
    gpus_per_actor: Annotated[float, typer.Option(min=0, help="0: on the CPU; 0.5: two share a GPU.")] = 0,
    address: Annotated[
        str | None, typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster; without one Ray runs on this machine.")
    ] = None,
    wait_s: Annotated[float, typer.Option("--wait-s", min=0, help="For a cluster's machines to join.")] = 300,
    local_cpus: Annotated[int | None, typer.Option(min=1, help="Of this machine, without a cluster.")] = None,
    object_store_mb: Annotated[int | None, typer.Option(min=80, help="Shared memory, without a cluster.")] = None,
) -> None:
    """Embed a large catalogue on Ray into Parquet files. Work that was broken off goes on where it was."""
    options = BulkOptions(
        part_items=part_items,
        threads=threads,
        batch_images=batch,
        actors=actors,
        cpus_per_actor=cpus_per_actor,
        gpus_per_actor=gpus_per_actor,
    )
    store_bytes = None if object_store_mb is None else object_store_mb * 1_000_000
    wait_s = wait_s if address else 0
    cluster = Cluster(address=address, cpus=local_cpus, object_store_bytes=store_bytes, wait_s=wait_s)
    done = embed_catalogue(source, names_in(levels), output, BulkEmbedder.of_model(model), options, cluster)
    if done.unreadable:
        typer.echo(f"unreadable: {done.unreadable}, all named in {output}/{PROBLEMS}", err=True)
    typer.echo(f"{done.items} items, {done.embeddings} embeddings, {done.duplicates} duplicates: {output}")


@index.command("load")
def load(
    output: OutputUrl,
    index_dir: IndexDir = INDEX_DIR,
    kind: Annotated[WantedKind | None, typer.Option(help="Exact, a graph, inverted lists, or by the count.")] = None,
    duplicates: Duplicates = "skip",
    keep_versions: KeepVersions = None,
) -> None:
    """Publish a version that holds what `lookalike embed` wrote into OUTPUT and nothing else."""
    given = {"kind": kind, "keep_versions": keep_versions}
    settings = IndexSettings.load().model_copy(update={name: value for name, value in given.items() if value})
    print_edit(load_embeddings(BulkOutput(open_store(output)), index_dir, settings, duplicates))
