"""The command `lookalike review`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lookalike.errors import SetupError
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.labels.folders import task_name, trained_dir
from lookalike.review.cases import Source
from lookalike.review.folder_source import FolderSource
from lookalike.review.label_source import PredictionSource, TaskSource
from lookalike.review.table_source import TableSource

MODEL, CACHE = Path("var/models/embedder"), Path("var/cache/review")
Root = Annotated[Path, typer.Option("--root", help="The project's folder.", file_okay=False, exists=True)]


def review(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A trained task, a .json of predictions, a .csv, a folder."),
    ],
    imgroot: Annotated[Path, typer.Option(help="The folder that a file's image names are relative to.")] = Path(),
    image_column: Annotated[str, typer.Option(help="Of a .csv: the image's file name.")] = "file",
    image_suffix: Annotated[str, typer.Option(help="Of a .csv: what file names have behind that, such as .jpg.")] = "",
    guessed: Annotated[bool, typer.Option("--guessed", help="Of a .csv: only rows with a model's guess.")] = False,
    label_column: Annotated[str | None, typer.Option(help="Of a .csv: the label that is reviewed.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: the operating system chooses.")] = 8091,
    model: Annotated[
        Path, typer.Option("--model", help="The built embedder, for near-duplicates and the map.")
    ] = MODEL,
    root: Root = Path(),
) -> None:
    """Look at hard cases in the browser, mend their labels, and write them back where training reads them."""
    try:
        import uvicorn

        from lookalike.review.app import Review
        from lookalike.review.looks import Looks
    except ImportError as error:
        raise SetupError(
            f"the review needs more packages: {error}", allowed="pip install lookalike[gateway]"
        ) from error
    table = partial(TableSource, image_column=image_column, image_suffix=image_suffix, guessed=guessed)
    opened = open_source(source, root, imgroot, label_column, table)
    looks = Looks([case.path for case in opened.cases], lambda: WholeImageEmbedder.load(model), root / CACHE)
    app = Review(opened, looks).app(root / "web")
    typer.echo(f"{len(opened.cases)} cases of {opened.name}: http://127.0.0.1:{port} (Ctrl-C ends it)")
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, server_header=False, log_level="warning")


def open_source(text: str, root: Path, imgroot: Path, label_column: str | None, table: Callable[..., Source]) -> Source:
    """Return the source that a user names; `table` opens a .csv.

    Raises:
        SetupError: there is none, or it cannot be read.
    """
    if text.endswith(".json"):
        return PredictionSource(Path(text), imgroot)
    if text.endswith(".csv"):
        if label_column is None:
            raise SetupError("which column holds the label?", allowed="--label-column NAME")
        return table(Path(text), imgroot, label_column=label_column)
    if Path(text).is_dir():
        return FolderSource(Path(text))
    return TaskSource(trained_dir(root, task_name(text)))
