"""The command `lookalike review`."""

from pathlib import Path
from typing import Annotated

import typer

from lookalike.errors import SetupError
from lookalike.labels.folders import task_name, trained_dir
from lookalike.review.cases import Source
from lookalike.review.label_source import PredictionSource, TaskSource
from lookalike.review.table_source import TableSource

Root = Annotated[Path, typer.Option("--root", help="The project's folder.", file_okay=False, exists=True)]


def review(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A trained task, a .json of predictions, or a .csv.")],
    imgroot: Annotated[Path, typer.Option(help="The folder that a file's image names are relative to.")] = Path(),
    image_column: Annotated[str, typer.Option(help="Of a .csv: the image's file name.")] = "file",
    label_column: Annotated[str | None, typer.Option(help="Of a .csv: the label that is reviewed.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: the operating system chooses.")] = 8091,
    root: Root = Path(),
) -> None:
    """Look at hard cases in the browser, mend their labels, and write them back where training reads them."""
    try:
        import uvicorn

        from lookalike.review.app import Review
    except ImportError as error:
        raise SetupError(
            f"the review needs more packages: {error}", allowed="pip install lookalike[gateway]"
        ) from error
    opened = open_source(source, root, imgroot, image_column, label_column)
    app = Review(opened).app(root / "web")
    typer.echo(f"{len(opened.cases)} cases of {opened.name}: http://127.0.0.1:{port} (Ctrl-C ends it)")
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, server_header=False, log_level="warning")


def open_source(text: str, root: Path, imgroot: Path, image_column: str, label_column: str | None) -> Source:
    """Return the source that a user names.

    Raises:
        SetupError: there is none, or it cannot be read.
    """
    if text.endswith(".json"):
        return PredictionSource(Path(text), imgroot)
    if text.endswith(".csv"):
        if label_column is None:
            raise SetupError("which column holds the label?", allowed="--label-column NAME")
        return TableSource(Path(text), imgroot, image_column, label_column)
    return TaskSource(trained_dir(root, task_name(text)))
