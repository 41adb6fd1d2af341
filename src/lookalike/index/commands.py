"""The commands `lookalike index build|add|remove|verify|info|search|use`."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lookalike.catalogue import FOLDER_LEVELS, read_catalogue
from lookalike.config import ImageLimits, IndexSettings
from lookalike.errors import InvalidOption, SetupError
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.images import decode_image
from lookalike.index.edits import IndexEditor
from lookalike.index.faiss_index import FaissIndex, open_index
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import WantedKind
from lookalike.index.output import print_edit, print_hits, print_info, print_recall
from lookalike.index.verify import measure_recall, verify_snapshot
from lookalike.index.writer import IndexWriter
from lookalike.ingest import IngestOptions
from lookalike.schemas import Filters

app = typer.Typer(no_args_is_help=True, help="Build, change, check and search the index.")

IndexDir = Annotated[
    Path, typer.Option("--index-dir", help="The index folder.", envvar="LOOKALIKE_ROUTER_INDEX_DIR", file_okay=False)
]
ModelDir = Annotated[Path, typer.Option("--model", help="The built embedder.", file_okay=False)]
Source = Annotated[Path, typer.Argument(help="A folder of images, or a CSV, TSV, JSONL or Parquet file.")]
Levels = Annotated[str, typer.Option(help="The attributes that the folders' names give, from the outside in.")]
Duplicates = Annotated[Literal["skip", "keep"], typer.Option(help="What to do with an image that comes twice.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that read and decode images.")]
Batch = Annotated[int, typer.Option(min=1, max=64, help="Images embedded at once.")]
KeepVersions = Annotated[int | None, typer.Option(min=1, help="Versions that stay on disk, besides the one in use.")]
Version = Annotated[str | None, typer.Option(help="A version on disk; the published one when left out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
INDEX_DIR, MODEL_DIR, LEVELS = Path("var/index"), Path("var/models/embedder"), ",".join(FOLDER_LEVELS)


@app.command()
def build(
    source: Source,
    index_dir: IndexDir = INDEX_DIR,
    model: ModelDir = MODEL_DIR,
    kind: Annotated[WantedKind | None, typer.Option(help="Exact, a graph, inverted lists, or by the count.")] = None,
    levels: Levels = LEVELS,
    duplicates: Duplicates = "skip",
    threads: Threads = 2,
    batch: Batch = 16,
    keep_versions: KeepVersions = None,
) -> None:
    """Publish a version that holds SOURCE and nothing else. Work that was broken off goes on where it was."""
    catalogue = read_catalogue(source, names_in(levels))
    options = IngestOptions(duplicates=duplicates, threads=threads, batch_images=batch)
    editor = IndexEditor(index_dir, _settings(kind=kind, keep_versions=keep_versions), options)
    print_edit(editor.build(catalogue, WholeImageEmbedder.load(model)))


@app.command()
def add(
    source: Source,
    index_dir: IndexDir = INDEX_DIR,
    model: ModelDir = MODEL_DIR,
    existing: Annotated[
        Literal["replace", "keep"], typer.Option(help="What to do with an item_id that the index has.")
    ] = "replace",
    levels: Levels = LEVELS,
    duplicates: Duplicates = "skip",
    threads: Threads = 2,
    batch: Batch = 16,
    keep_versions: KeepVersions = None,
) -> None:
    """Publish a version with the items of SOURCE besides those that are there."""
    catalogue = read_catalogue(source, names_in(levels))
    options = IngestOptions(duplicates=duplicates, existing=existing, threads=threads, batch_images=batch)
    editor = IndexEditor(index_dir, _settings(keep_versions=keep_versions), options)
    print_edit(editor.add(catalogue, WholeImageEmbedder.load(model)))


@app.command()
def remove(
    item_ids: Annotated[list[str] | None, typer.Argument(help="The items' ids.")] = None,
    ids_from: Annotated[Path | None, typer.Option(help="A text file with one item_id a line.")] = None,
    index_dir: IndexDir = INDEX_DIR,
    keep_versions: KeepVersions = None,
) -> None:
    """Publish a version without these items. Ids that the index does not have are reported."""
    unwanted = [*(item_ids or []), *(_lines(ids_from) if ids_from else [])]
    if not unwanted:
        raise typer.BadParameter("name item_ids, or a file of them with --ids-from")
    edit = IndexEditor(index_dir, _settings(keep_versions=keep_versions)).remove(unwanted)
    if not edit.removed:
        raise SetupError(f"the index has none of these items, nothing was removed: {', '.join(edit.unknown_ids[:10])}")
    print_edit(edit)


@app.command()
def verify(
    index_dir: IndexDir = INDEX_DIR,
    version: Version = None,
    recall: Annotated[bool, typer.Option("--recall", help="Compare with exact search.")] = False,
    queries: Annotated[int, typer.Option(min=1, help="Queries for --recall.")] = 200,
    k: Annotated[int, typer.Option("--k", min=1, help="Hits compared for --recall.")] = 10,
) -> None:
    """Read a version wholly and check it: hashes, shapes, lengths of the embeddings, item_ids."""
    layout = IndexLayout(index_dir)
    snapshot = verify_snapshot(layout.version_dir(version) if version else layout.published_dir())
    index = FaissIndex(snapshot, _settings())
    typer.echo(f"{index.info.version} is whole: {index.info.count} items, {len(index.manifest.files)} files")
    if recall:
        print_recall(measure_recall(index, queries, k), index.info.kind)


@app.command()
def info(index_dir: IndexDir = INDEX_DIR, version: Version = None, as_json: AsJson = False) -> None:
    """Print what a version was built from, and which versions are on disk."""
    index = open_index(index_dir, _settings(), version)
    print_info(index.manifest, IndexLayout(index_dir), as_json)


@app.command()
def search(
    image: Annotated[Path, typer.Argument(help="The image to search with, whole.", dir_okay=False, exists=True)],
    index_dir: IndexDir = INDEX_DIR,
    model: ModelDir = MODEL_DIR,
    top_k: Annotated[int, typer.Option(min=1, max=1000)] = 10,
    filters: Annotated[
        list[str] | None, typer.Option("--filter", help="name=value; several values of a name: any of them.")
    ] = None,
    min_similarity: Annotated[float | None, typer.Option(min=-1, max=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Search with an image, in this process and without a server."""
    embedder = WholeImageEmbedder.load(model)
    index = open_index(index_dir, _settings(), expect_fingerprint=embedder.fingerprint)
    pixels = embedder.prepare(decode_image(image.read_bytes(), ImageLimits()).pixels)
    (hits,) = index.search(embedder.embed(pixels[None]), top_k, parse_filters(filters or []), min_similarity)
    print_hits(hits, index.info, as_json)


@app.command()
def use(
    version: Annotated[str, typer.Argument(help="A version that is still there.")],
    index_dir: IndexDir = INDEX_DIR,
    at: Annotated[str | None, typer.Option("--at", metavar="URL", help="A store, in place of the folder.")] = None,
) -> None:
    """Publish a version again that is still there: the way back after a bad build."""
    if at is not None:
        from lookalike.delivery.index_store import use_again  # it stands on this module

        typer.echo(f"{use_again(at, version).version} is in use at {at}")
        return
    IndexLayout(index_dir).version_dir(version)  # asked before the writer makes its folders
    with IndexWriter(index_dir) as writer:
        typer.echo(f"{writer.use(version).version} is in use")


def parse_filters(texts: list[str]) -> Filters:
    """Return `name=value` texts as filters; a name that comes again adds a value.

    Raises:
        InvalidOption: for a text without a name or `=`.
    """
    filters: Filters = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InvalidOption(f"filter {text!r} is not understood", allowed="name=value")
        filters.setdefault(name, []).append(value)
    return filters


def _settings(**given: Any) -> IndexSettings:
    """Return the environment's settings under those given on the command line."""
    return IndexSettings.load().model_copy(update={name: value for name, value in given.items() if value is not None})


def names_in(levels: str) -> list[str]:
    """Return the names in a list with commas."""
    return [name.strip() for name in levels.split(",") if name.strip()]


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line]
    except UnicodeDecodeError as error:
        raise SetupError(f"{path} is not UTF-8 text: {error}") from error
