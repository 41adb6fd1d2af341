"""The command `lookalike evaluate`; run from the project's folder."""

import os
from pathlib import Path
from typing import Annotated

import typer

from lookalike.config import RouterSettings
from lookalike.project import training_module


def evaluate(
    sets: Annotated[
        list[str] | None, typer.Argument(help="paintings, grocery, walls, composites; all of them.")
    ] = None,
    root: Annotated[Path, typer.Option("--root", help="The project's folder.", file_okay=False, exists=True)] = Path(),
    data: Annotated[
        Path, typer.Option(help="The folder that holds retrieval/ and autocrop/.", envvar="LOOKALIKE_DATA")
    ] = Path("../shared/data"),
    models: Annotated[Path | None, typer.Option(help="The built models; var/models.", file_okay=False)] = None,
    out: Annotated[Path | None, typer.Option(help="The report's folder; var/evaluation.", file_okay=False)] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many queries of each set.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the queries under --limit.")] = 0,
    candidates: Annotated[int, typer.Option(min=1, max=10, help="The most candidate boxes of a photo.")] = 5,
    min_score: Annotated[float | None, typer.Option(min=0, max=1, help="Weaker detections are not searched.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Threads of a network; 0: one a core.")] = 0,
) -> None:
    """Measure the whole chain on real sets: photo, crop, embedding, search; write a report with plots."""
    evaluating = training_module("evaluate_chain", root)
    report, table = evaluating.evaluate_chain(
        root=root,
        data=data if data.is_absolute() or "LOOKALIKE_DATA" in os.environ else root / data,
        models_dir=models or root / "var/models",
        sets=sets or evaluating.SETS,
        out=out or root / "var/evaluation",
        limit=limit,
        seed=seed,
        candidates=candidates,
        min_score=RouterSettings.load().min_detection_score if min_score is None else min_score,
        threads=threads,
    )
    typer.echo(table)
    typer.echo(f"{report}: with plots and the worst queries")
