"""The commands `lookalike labels train|compare|analyze|predict|export|serve`; run from the project's folder."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lookalike.labels.export import export_task
from lookalike.labels.folders import cache_dir, load_embedder, reader_of, task_name, trained_dir
from lookalike.labels.head import LabelHead
from lookalike.labels.lists import images_to_label
from lookalike.labels.prediction import predict as predict_images
from lookalike.labels.prediction import write_predictions
from lookalike.labels.problems import BadInput
from lookalike.labels.task import LabelTask, read_task
from lookalike.preprocessing import Resize
from lookalike.project import training_module
from lookalike.server import stop_server
from lookalike.server_commands import serve as serve_models
from lookalike.server_config import ServerFiles

app = typer.Typer(no_args_is_help=True, help="Train, analyse, use and serve label tasks of your own.")

TaskFile = Annotated[Path, typer.Argument(help="The task's YAML file.", dir_okay=False, exists=True)]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="A trained task's name, or its YAML file.")]
Root = Annotated[Path, typer.Option("--root", help="The project's folder.", file_okay=False, exists=True)]
EmbedderDir = Annotated[Path, typer.Option("--embedder", help="The built embedder.", file_okay=False)]
BadInputOption = Annotated[
    BadInput | None, typer.Option("--bad-input", help="Stop at a wrong line or image, or go on without it.")
]
Cached = Annotated[bool, typer.Option("--cache/--no-cache", help="Keep decoded images and features in var/cache.")]
HERE, EMBEDDER = Path(), Path("var/models/embedder")


@app.command()
def train(
    task: TaskFile,
    root: Root = HERE,
    resize: Annotated[Resize | None, typer.Option(help="Another resize mode than the task's.")] = None,
    bad_input: BadInputOption = None,
    cached: Cached = True,
) -> None:
    """Train a task on the lists of its YAML file; print how good it is."""
    training, figures = training_module("labels.train", root), training_module("labels.figures", root)
    given = _task(task, resize, bad_input)
    embedder = load_embedder(root / given.settings.embedder)
    trained = training.train_task(given, embedder, cache_dir(root) if cached else None)
    folder = trained_dir(root, given.name)
    training.write_trained(trained, given, folder)
    typer.echo(figures.figures_table(trained.figures()))
    typer.echo(f"{folder}: next: lookalike labels analyze|serve {given.name}")


@app.command()
def compare(task: TaskFile, root: Root = HERE, bad_input: BadInputOption = None, cached: Cached = True) -> None:
    """Train a task with every resize mode and head; print a table."""
    comparing = training_module("labels.compare", root)
    given = _task(task, None, bad_input)
    embedder = load_embedder(root / given.settings.embedder)
    typer.echo(comparing.compare_table(given, embedder, cache_dir(root) if cached else None))


@app.command()
def analyze(
    task: TaskName,
    root: Root = HERE,
    out: Annotated[Path | None, typer.Option(help="The report's folder.", file_okay=False)] = None,
) -> None:
    """Write what confused a trained task: a report, plots, a contact sheet, and lists to label again."""
    analysis = training_module("labels.analysis", root)
    folder = trained_dir(root, task_name(task))
    report = analysis.analyze_task(folder, out or folder / "analysis")
    typer.echo(f"{report}: read this first")


@app.command()
def predict(
    task: TaskName,
    sources: Annotated[list[Path], typer.Argument(help="Lists of images, or folders of them.", exists=True)],
    imgroot: Annotated[Path, typer.Option(help="What the names in lists are relative to.", file_okay=False)] = HERE,
    out: Annotated[Path | None, typer.Option(help="Where the lists go.", file_okay=False)] = None,
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Another one than the task's.")] = None,
    root: Root = HERE,
    embedder: EmbedderDir = EMBEDDER,
    bad_input: Annotated[BadInput, typer.Option(help="Stop at an unreadable image, or list it.")] = "skip",
    cached: Cached = False,
) -> None:
    """Label the images of lists and folders: one list a label, `inconclusive` below the threshold, and JSON."""
    folder = trained_dir(root, task_name(task))
    head = LabelHead.load(folder)
    reader = reader_of(head, load_embedder(root / embedder), cache_dir(root) if cached else None)
    line = head.card.threshold if threshold is None else threshold
    for source in sources:
        found = predict_images(head, reader, images_to_label(source, imgroot), line, bad_input)
        for path in write_predictions(found, head.card.labels, (out or folder / "predictions") / source.name):
            typer.echo(path)


@app.command()
def export(task: TaskName, root: Root = HERE, embedder: EmbedderDir = EMBEDDER) -> None:
    """Put a trained task's model into var/models, from where the next `lookalike serve` serves it."""
    name = task_name(task)
    typer.echo(export_task(trained_dir(root, name), root, root / embedder))
    typer.echo(f"next: lookalike labels serve {name}")


@app.command()
def serve(task: TaskName, root: Root = HERE, embedder: EmbedderDir = EMBEDDER) -> None:
    """Serve a trained task: export it, and start the server, again if it runs: POST /predictions/<task>."""
    name = task_name(task)
    export_task(trained_dir(root, name), root, root / embedder)
    if stop_server(ServerFiles.of(root).state):
        typer.echo("the running server was stopped: a server loads its models when it starts")
    serve_models(root)
    typer.echo(f"POST /predictions/{name} replies with label, score, sure and scores")


def _task(file: Path, resize: Resize | None, bad_input: BadInput | None) -> LabelTask:
    task = read_task(file)
    for note in task.notes:
        typer.echo(note, err=True)
    given = {name: value for name, value in (("resize", resize), ("bad_input", bad_input)) if value is not None}
    return replace(task, settings=task.settings.model_copy(update=given))
