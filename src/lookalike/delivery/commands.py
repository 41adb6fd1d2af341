"""The commands that bring models and index to the machines that serve them: `models ...`, and more of `index ...`."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from lookalike.archives import unpack_archive
from lookalike.catalogue import read_catalogue
from lookalike.config import IndexSettings, StoreSettings
from lookalike.delivery.builds import Build
from lookalike.delivery.follow import end_on_signals
from lookalike.delivery.follow import follow as followed
from lookalike.delivery.index_store import IndexStore, push_index
from lookalike.delivery.model_sets import pull_models, push_models, read_set
from lookalike.delivery.publish import publish_build
from lookalike.delivery.pull import IndexPuller, Pulled
from lookalike.delivery.shards import ShardBuilder
from lookalike.delivery.store import open_store
from lookalike.errors import IndexUnavailable
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.index.commands import (
    INDEX_DIR,
    LEVELS,
    MODEL_DIR,
    Batch,
    Duplicates,
    IndexDir,
    KeepVersions,
    Levels,
    Source,
    Threads,
    names_in,
)
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import Manifest, WantedKind
from lookalike.index.output import print_edit
from lookalike.index.writer import IndexWriter
from lookalike.ingest import IngestOptions

models = typer.Typer(no_args_is_help=True, help="Bring model archives to the machines that serve them.")
index = typer.Typer()

Url = Annotated[str, typer.Argument(metavar="URL", help="The store: s3://bucket/folder, or a folder.")]
Archives = Annotated[Path, typer.Option("--archives", help="The folder of the archives (.mar).", file_okay=False)]
Models = Annotated[
    Path | None,
    typer.Option("--models", help="A folder of archives: only the index of their embedder counts.", file_okay=False),
]
BuildName = Annotated[
    str, typer.Option("--build", help="The build's name, new for each run.", envvar="LOOKALIKE_BUILD")
]
WaitS = Annotated[float, typer.Option("--wait-s", min=0, help="How long to wait for shards that are not finished.")]
Kind = Annotated[WantedKind | None, typer.Option(help="Exact, a graph, inverted lists, or by the count.")]
Model = Annotated[Path, typer.Option("--model", help="The embedder: its built folder, or its archive (.mar).")]
ARCHIVES = Path("var/archives")
ENDED = 128 + signal.SIGTERM  # as a shell tells it: an init container that was ended has not succeeded


@models.command()
def push(url: Url, archives: Archives = ARCHIVES) -> None:
    """Put the archives into the store as one set, under a URL of its own that never changes again."""
    pushed = push_models(archives, open_store(url))
    typer.echo(f"{url} holds {', '.join(pushed.archives)}; embedder {pushed.embedder_fingerprint}")


@models.command()
def pull(
    url: Url, to: Annotated[Path, typer.Option("--to", help="Where the archives go.", file_okay=False)] = ARCHIVES
) -> None:
    """Get the set of archives, each checked by its sha256; what is there already is left alone."""
    end_on_signals(ENDED)
    pulled, fetched = pull_models(open_store(url), to)
    embedder = pulled.embedder_fingerprint
    typer.echo(f"{to} holds {', '.join(pulled.archives)} ({fetched} fetched); embedder {embedder}")


@index.command("push")
def push_version(url: Url, index_dir: IndexDir = INDEX_DIR, keep_versions: KeepVersions = None) -> None:
    """Put the version in use into the store and make it the store's; one that is newer there is not overwritten."""
    manifest, is_new = push_index(index_dir, IndexStore(open_store(url)), _kept(keep_versions))
    typer.echo(f"{manifest.version} {'is published in' if is_new else 'was in use already in'} {url}")


@index.command("pull")
def pull_versions(
    url: Url, index_dir: IndexDir = INDEX_DIR, models: Models = None, keep_versions: KeepVersions = None
) -> None:
    """Get the versions that the store has in use, check every sha256 and publish them here."""
    end_on_signals(ENDED)
    source = IndexStore(open_store(url))
    pulled = IndexPuller(source, index_dir, _kept(keep_versions), _embedder_of(models)).pull()
    for error in pulled.problems.values():
        typer.echo(f"not taken: {error.message}", err=True)
    pulled.check()
    _tell(pulled, index_dir)


@index.command()
def follow(
    url: Url,
    index_dir: IndexDir = INDEX_DIR,
    models: Models = None,
    poll_s: Annotated[float | None, typer.Option(min=0.01, help="Seconds between two looks.")] = None,
    keep_versions: KeepVersions = None,
) -> None:
    """Keep the index folder like the store until SIGTERM; the state is in follow.json beside CURRENT."""
    end_on_signals(0)
    settings = StoreSettings.load()
    # Each look is a new attempt: a second loop of attempts inside it would only hide the cause.
    source = IndexStore(open_store(url, settings.model_copy(update={"retry_s": 0})))
    puller = IndexPuller(source, index_dir, _kept(keep_versions), _embedder_of(models))
    _run(followed(puller, index_dir, url, poll_s or settings.poll_s))


@index.command()
def shard(
    source: Source,
    to: Annotated[str, typer.Option("--to", metavar="URL", help="The store that the build is in.")],
    build: BuildName,
    count: Annotated[int, typer.Option(min=1, help="How many shards the source is cut into.")],
    number: Annotated[
        int, typer.Option("--index", min=0, help="Which of them, from 0.", envvar="JOB_COMPLETION_INDEX")
    ],
    model: Model = MODEL_DIR,
    publish: Annotated[
        bool, typer.Option("--publish", help="The last shard waits for the others, then publishes.")
    ] = False,
    wait_s: WaitS = 3600,
    kind: Kind = None,
    levels: Levels = LEVELS,
    duplicates: Duplicates = "skip",
    threads: Threads = 2,
    batch: Batch = 16,
) -> None:
    """Embed one share of SOURCE into a build. Work that was broken off goes on where it was, on any machine."""
    # Not at once: what was embedded since the last checkpoint is saved first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ENDED))
    target, catalogue = IndexStore(open_store(to)), read_catalogue(source, names_in(levels))
    options = IngestOptions(duplicates=duplicates, threads=threads, batch_images=batch)
    begun = Build(target.store, build)
    with TemporaryDirectory(prefix="lookalike-shard-") as work:
        builder = ShardBuilder(target, begun, number, count, Path(work))
        report = builder.run(catalogue, _embedder(model, Path(work)), options, IndexSettings.load())
    for problem in report.problems[:10]:
        typer.echo(f"{problem.kind}: {problem.path}: {problem.reason}", err=True)
    told = f"{report.items} items, {report.embedded} embedded now, {len(report.problems)} unreadable"
    typer.echo(f"shard {number} of {count} of build {build} is finished: {told}")
    if publish and number == count - 1:
        _publish(begun, target, wait_s, kind)


@index.command("publish")
def publish_shards(
    source: Annotated[str, typer.Option("--from", metavar="URL", help="The store that the build is in.")],
    build: BuildName,
    wait_s: WaitS = 0,
    kind: Kind = None,
) -> None:
    """Make one version of all shards of a build and publish it in the store, once."""
    target = IndexStore(open_store(source))
    _publish(Build(target.store, build), target, wait_s, kind)


@index.command()
def status(url: Url, models: Models = None) -> None:
    """Say what the store has in use; with --models, exit code 1 unless it has an index of their embedder."""
    source = IndexStore(open_store(url))
    serving = [source.manifest(version) for version in source.pointers() if version is not None]
    for manifest, role in zip(serving, ("in use", "of the embedder before"), strict=False):
        typer.echo(f"{_told(manifest)}, {role}")
    embedder = _embedder_of(models)
    if not serving or (embedder and embedder not in {manifest.fingerprint for manifest in serving}):
        raise IndexUnavailable(f"{url} holds no index" + (f" of embedder {embedder}" if embedder else ""))


@index.command()
def retire(
    index_dir: IndexDir = INDEX_DIR,
    at: Annotated[str | None, typer.Option("--at", metavar="URL", help="A store, in place of the folder.")] = None,
) -> None:
    """Forget the version of the embedder before: the change of the embedder is over."""
    if at is not None:
        version = IndexStore(open_store(at)).retire_previous()
    else:
        IndexLayout(index_dir).published_dir()  # asked before the writer makes its folders
        with IndexWriter(index_dir, _kept(None)) as writer:
            version = writer.retire_previous()
    typer.echo(f"{version} is retired" if version else "there is none to retire")


def _publish(build: Build, target: IndexStore, wait_s: float, kind: WantedKind | None) -> None:
    settings = IndexSettings.load()
    if kind is not None:
        settings = settings.model_copy(update={"kind": kind})
    with TemporaryDirectory(prefix="lookalike-publish-") as work:
        print_edit(publish_build(target, build, settings, Path(work), wait_s))


def _embedder(model: Path, work_dir: Path) -> WholeImageEmbedder:
    folder = unpack_archive(model, work_dir / "embedder") if model.suffix == ".mar" else model
    return WholeImageEmbedder.load(folder)


def _run(looks: Iterator[None]) -> None:
    for _ in looks:
        pass


def _tell(pulled: Pulled, index_dir: Path) -> None:
    for manifest in pulled.versions:
        fetched = "fetched" if manifest.version in pulled.new else "was here"
        typer.echo(f"{_told(manifest)}, {fetched}: {index_dir}")


def _told(manifest: Manifest) -> str:
    return f"{manifest.version}: {manifest.count} items of embedder {manifest.fingerprint}"


def _embedder_of(models: Path | None) -> str | None:
    return None if models is None else read_set(models).embedder_fingerprint


def _kept(keep_versions: int | None) -> int:
    return keep_versions or IndexSettings.load().keep_versions
