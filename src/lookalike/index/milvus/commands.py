"""The commands `lookalike index migrate` and `lookalike milvus list|add|remove|use|retire|drop`."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from lookalike.catalogue import read_catalogue
from lookalike.config import IndexSettings, MilvusSettings
from lookalike.errors import SetupError
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.index.commands import (
    LEVELS,
    MODEL_DIR,
    Batch,
    Duplicates,
    Levels,
    ModelDir,
    Source,
    Threads,
    names_in,
)
from lookalike.index.manifest import Kind
from lookalike.index.milvus.catalogue import MilvusCatalogue
from lookalike.index.milvus.connection import MilvusConnection
from lookalike.ingest import IngestOptions

index = typer.Typer()
app = typer.Typer(no_args_is_help=True, help="The collections of a catalogue in Milvus.")

_PREFIX = "milvus:"
WORK_DIR = Path("var/milvus")
Uri = Annotated[str | None, typer.Option("--uri", help="The server's address, or a file; else LOOKALIKE_MILVUS_URI.")]
Catalogue = Annotated[str | None, typer.Option("--catalogue", help="Its name; else LOOKALIKE_MILVUS_CATALOGUE.")]
Name = Annotated[str, typer.Argument(metavar="COLLECTION", help="One that `lookalike milvus list` names.")]


@index.command()
def migrate(
    source: Annotated[str, typer.Argument(help="An index folder, or milvus:CATALOGUE.")],
    target: Annotated[str, typer.Argument(help="The other one of these.")],
    uri: Uri = None,
    kind: Annotated[Kind | None, typer.Option(help="The kind of the target; that of the source when left out.")] = None,
    sample: Annotated[int, typer.Option(min=1, help="Stored embeddings that are searched for to check it.")] = 100,
    new_embedder: Annotated[
        bool, typer.Option("--new-embedder", help="Take the place of an index of another embedder.")
    ] = False,
) -> None:
    """Move a catalogue from an index folder into Milvus, or back. Work that was broken off goes on where it was."""
    from lookalike.index.milvus.migrate import Options, folder_to_milvus, milvus_to_folder

    if source.startswith(_PREFIX) == target.startswith(_PREFIX):
        raise typer.BadParameter(f"one of SOURCE and TARGET is an index folder, the other {_PREFIX}CATALOGUE")
    options, settings = Options(kind, new_embedder, sample), IndexSettings.load()
    name = (source if source.startswith(_PREFIX) else target).removeprefix(_PREFIX)
    # The check must see what was written by a run before.
    with closing(MilvusConnection(_settings(uri).model_copy(update={"consistency_level": "Strong"}))) as connection:
        catalogue = MilvusCatalogue(connection, name)
        if target.startswith(_PREFIX):
            done = folder_to_milvus(Path(source), catalogue, options, settings)
        else:
            done = milvus_to_folder(catalogue, Path(target), options, settings)
    already = f", {done.there_already} were there already" if done.there_already else ""
    typer.echo(f"moved {done.moved} items{already}")
    typer.echo(
        f"{done.version} is in use: {done.count} items; of {done.agreement.sample} searches for stored embeddings "
        f"{done.agreement.share:.4f} of the hits agree"
    )


@app.command("list")
def list_collections(uri: Uri = None, catalogue: Catalogue = None) -> None:
    """Print the catalogue's collections: about their count, kind, embedder, and which one serves."""
    with closing(MilvusConnection(_settings(uri))) as connection:
        collections = _catalogue(connection, catalogue)
        aliases = {collections.current(): " (serves)", collections.previous(): " (serves the embedder before)"}
        for name in collections.names():
            found, count = collections.describe(name), collections.stored_count(name)
            embedder = f"{found.manifest.embedder} {found.manifest.fingerprint}"
            state = aliases.get(name, "" if found.state == "ready" else f" ({found.state})")
            typer.echo(f"{name}{state}: about {count} items, {found.manifest.kind}, {found.manifest.dim} x {embedder}")


@app.command()
def add(
    source: Source,
    uri: Uri = None,
    catalogue: Catalogue = None,
    model: ModelDir = MODEL_DIR,
    levels: Levels = LEVELS,
    duplicates: Duplicates = "skip",
    threads: Threads = 2,
    batch: Batch = 16,
    work_dir: Annotated[Path, typer.Option(help="Where embeddings wait until Milvus has them.")] = WORK_DIR,
) -> None:
    """Embed the items of SOURCE and put them into the collection that serves: the next search finds them."""
    from lookalike.index.milvus.edits import add_items
    from lookalike.index.milvus.index import MilvusIndex

    items, embedder = read_catalogue(source, names_in(levels)), WholeImageEmbedder.load(model)
    options = IngestOptions(duplicates=duplicates, threads=threads, batch_images=batch)
    with closing(MilvusConnection(_settings(uri))) as connection:
        collections = _catalogue(connection, catalogue)
        index = MilvusIndex(collections, collections.serving())
        done = add_items(index, items, embedder, work_dir, options, IndexSettings.load().chunk_items)
        for problem in done.problems[:10]:
            typer.echo(f"{problem.kind}: {problem.path}: {problem.reason}", err=True)
        told = f"added {done.added}, replaced {done.replaced}, problems {len(done.problems)}"
        typer.echo(f"{told}; {index.info.version} holds {index.info.count} items")


@app.command()
def remove(
    item_ids: Annotated[list[str], typer.Argument(help="The items' ids.")],
    uri: Uri = None,
    catalogue: Catalogue = None,
) -> None:
    """Take items out of the collection that serves. Ids that it does not have are reported."""
    from lookalike.index.milvus.index import MilvusIndex

    with closing(MilvusConnection(_settings(uri))) as connection:
        collections = _catalogue(connection, catalogue)
        index = MilvusIndex(collections, collections.serving())
        unknown = index.delete(item_ids)
        for item_id in unknown[:10]:
            typer.echo(f"unknown item_id: {item_id}", err=True)
        if len(unknown) == len(set(item_ids)):
            raise SetupError(f"{index.info.version} has none of these items, nothing was removed")
        typer.echo(f"removed {len(set(item_ids)) - len(unknown)}; {index.info.version} holds {index.info.count} items")


@app.command()
def use(name: Name, uri: Uri = None, catalogue: Catalogue = None) -> None:
    """Let the catalogue's alias lead to a collection that is still there: the way back after a bad one."""
    with closing(MilvusConnection(_settings(uri))) as connection:
        _catalogue(connection, catalogue).switch_to(name)
    typer.echo(f"{name} is in use")


@app.command()
def retire(uri: Uri = None, catalogue: Catalogue = None) -> None:
    """Forget the collection of the embedder before, when its change is over; `drop` then deletes it."""
    with closing(MilvusConnection(_settings(uri))) as connection:
        name = _catalogue(connection, catalogue).retire_previous()
    typer.echo(f"{name} serves no more" if name else "there is no collection of an embedder before")


@app.command()
def drop(name: Name, uri: Uri = None, catalogue: Catalogue = None) -> None:
    """Delete a collection that does not serve."""
    with closing(MilvusConnection(_settings(uri))) as connection:
        _catalogue(connection, catalogue).drop(name)
    typer.echo(f"{name} is deleted")


def _settings(uri: str | None) -> MilvusSettings:
    settings = MilvusSettings.load()
    return settings if uri is None else settings.model_copy(update={"uri": uri})


def _catalogue(connection: MilvusConnection, name: str | None) -> MilvusCatalogue:
    return MilvusCatalogue(connection, name or connection.settings.catalogue)
