"""Trains the detector on other parts of the data, folds and growing shares, and draws these, a run and a search.

Run:
    python -m training.detector.curves folds --config training/configs/detector.yaml --out var/runs/folds
    python -m training.detector.curves shares --config training/configs/detector.yaml --out var/runs/shares
    python -m training.detector.curves learning --run var/runs/detector
    python -m training.detector.curves trials --out var/runs/search

A killed command goes on where it was: a run that is done is not trained again.
"""

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
import torch

from lookalike.errors import LookalikeError, SetupError
from training.detector.config import DetectorConfig, load_config
from training.search_hparams import STUDIES
from training.train_detector import CHECKPOINT, Training

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter, NullLocator

FOLDS_TABLE = "folds.json"
SHARES_TABLE = "shares.json"
_SHARES = (0.1, 0.25, 0.5, 1.0)

_log = logging.getLogger(__name__)


def train_variants(
    variants: Mapping[str, DetectorConfig], data: Path, out: Path, downloads: Path
) -> dict[str, dict[str, float]]:
    """Train each configuration in `out/<name>`; return each one's figures in its best epoch."""
    figures = {}
    for name, config in variants.items():
        progress = Training(config, data, out / name, downloads).run()
        figures[name] = progress.history[progress.best_epoch]
        _log.info("%s: validation IoU %.4f, loss %.4f", name, figures[name]["val_iou"], figures[name]["loss"])
    return figures


def fold_variants(config: DetectorConfig, folds: int | None) -> dict[str, DetectorConfig]:
    """Return one configuration a fold, each with another part of train as its validation split."""
    count = folds or config.data.folds
    part = config.data.model_copy(update={"folds": count})
    return {
        f"fold-{fold}": config.model_copy(update={"data": part.model_copy(update={"fold": fold})})
        for fold in range(count)
    }


def share_variants(config: DetectorConfig, shares: Sequence[float]) -> dict[str, DetectorConfig]:
    """Return one configuration a share of the training rows; views, steps and validation split stay the same."""
    return {
        f"share-{share:g}": config.model_copy(update={"data": config.data.model_copy(update={"share": share})})
        for share in shares
    }


def fold_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return mean and standard deviation over the folds of what validation measures, as a Markdown table."""
    names = sorted({name for row in figures.values() for name in row if name.startswith("val")})
    lines = ["| figure | mean | deviation | least | most |", "|---|---|---|---|---|"]
    for name in names:
        values = np.array([row[name] for row in figures.values() if name in row])
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        cells = (values.mean(), spread, values.min(), values.max())
        lines.append(f"| {name} | " + " | ".join(f"{cell:.4f}" for cell in cells) + " |")
    return "\n".join(lines)


def draw_shares(figures: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw loss and IoU against the share of the data: where the curve is flat, more of the same data is no help."""
    shares = [float(name.removeprefix("share-")) for name in figures]
    canvas, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot(shares, [row["loss"] for row in figures.values()], "o-")
    left.set(xlabel="share of the training photos", ylabel="training loss", xscale="log")
    for name in sorted({name for row in figures.values() for name in row if name.startswith("val")}):
        width = 3 if name == "val_iou" else 1
        right.plot(shares, [row[name] for row in figures.values()], "o-", label=name, linewidth=width)
    right.set(xlabel="share of the training photos", ylabel="validation IoU", xscale="log")
    for axis in (left, right):
        axis.set_xticks(shares, [f"{share:g}" for share in shares])
        axis.xaxis.set_minor_locator(NullLocator())
    canvas.legend(loc="outside right center", fontsize="small")
    canvas.savefig(path, dpi=110)
    plt.close(canvas)


def draw_learning(run_dir: Path, path: Path) -> None:
    """Draw a run's loss and validation IoU against its epochs.

    Raises:
        SetupError: when the run has not ended an epoch.
    """
    checkpoint = run_dir / CHECKPOINT
    history: list[dict[str, float]] = []
    if checkpoint.exists():
        history = torch.load(checkpoint, map_location="cpu", weights_only=True)["progress"]["history"]
    if not history:
        raise SetupError(f"{run_dir} holds no run with an epoch that is done")
    epochs = [row["epoch"] for row in history]
    canvas, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot(epochs, [row["loss"] for row in history], "o-")
    left.set(xlabel="epoch", ylabel="training loss")
    for name in sorted(name for name in history[0] if name.startswith("val")):
        right.plot(epochs, [row[name] for row in history], "o-", label=name, linewidth=3 if name == "val_iou" else 1)
    right.set(xlabel="epoch", ylabel="validation IoU")
    canvas.legend(loc="outside right center", fontsize="small")
    canvas.savefig(path, dpi=110)
    plt.close(canvas)


def draw_trials(out: Path, path: Path) -> None:
    """Draw the score of a search's trials against each setting, one colour a stage.

    Raises:
        SetupError: when the folder holds no search with a trial that is done.
    """
    if not (out / STUDIES).exists():
        raise SetupError(f"{out} holds no search")
    storage = f"sqlite:///{out / STUDIES}"
    stages = {
        name: [trial for trial in optuna.load_study(study_name=name, storage=storage).trials if trial.value is not None]
        for name in optuna.get_all_study_names(storage)
    }
    names = sorted({name for trials in stages.values() for trial in trials for name in trial.params})
    if not names:
        raise SetupError(f"{out} holds no search with a trial that is done")
    columns = min(4, len(names))
    size = math.ceil(len(names) / columns), columns
    canvas, axes = plt.subplots(*size, figsize=(3 * columns, 2.6 * size[0]), layout="constrained", squeeze=False)
    for name, axis in zip(names, axes.flat, strict=False):
        for stage, trials in stages.items():
            known = [trial for trial in trials if name in trial.params]
            axis.plot([t.params[name] for t in known], [t.value for t in known], "o", label=stage, alpha=0.7)
            if any(getattr(trial.distributions[name], "log", False) for trial in known):
                axis.set_xscale("log")
                axis.xaxis.set_minor_formatter(NullFormatter())  # its labels overlap
        axis.set(xlabel=name, ylabel="validation IoU")
    axes.flat[0].legend(fontsize="small")
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    canvas.savefig(path, dpi=110)
    plt.close(canvas)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train on parts of the data and draw curves.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, default in (("folds", "var/runs/folds"), ("shares", "var/runs/shares")):
        command = commands.add_parser(name)
        command.add_argument("--config", type=Path, default=Path("training/configs/detector.yaml"))
        command.add_argument("--data", type=Path, default=Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")))
        command.add_argument("--out", type=Path, default=Path(default))
        command.add_argument("--downloads", type=Path, default=Path("var/downloads"))
        command.add_argument("--views", type=int, help="an epoch, instead of the configuration's")
        command.add_argument("--epochs", type=int, help="instead of the configuration's")
    commands.choices["folds"].add_argument("--count", type=int, help="of folds, instead of the configuration's")
    commands.choices["shares"].add_argument("--shares", type=float, nargs="+", default=list(_SHARES))
    learning = commands.add_parser("learning")
    learning.add_argument("--run", type=Path, default=Path("var/runs/detector"))
    learning.add_argument("--picture", type=Path, help="default: learning.png in the run")
    trials = commands.add_parser("trials")
    trials.add_argument("--out", type=Path, default=Path("var/runs/search"), help="of training.search_hparams")
    trials.add_argument("--picture", type=Path, help="default: trials.png in that folder")
    return parser.parse_args(argv)


def _shortened(config: DetectorConfig, views: int | None, epochs: int | None) -> DetectorConfig:
    changes: dict[str, Any] = {}
    if views:
        changes["data"] = config.data.model_copy(update={"views_per_epoch": views})
    if epochs:
        changes["optimiser"] = config.optimiser.model_copy(update={"epochs": epochs})
    return config.model_copy(update=changes)


def _run(options: argparse.Namespace) -> None:
    if options.command == "learning":
        draw_learning(options.run, options.picture or options.run / "learning.png")
        return
    if options.command == "trials":
        draw_trials(options.out, options.picture or options.out / "trials.png")
        return
    config = _shortened(load_config(options.config), options.views, options.epochs)
    if options.command == "folds":
        figures = train_variants(fold_variants(config, options.count), options.data, options.out, options.downloads)
        (options.out / FOLDS_TABLE).write_text(json.dumps(figures, indent=1) + "\n")
        print(fold_table(figures))
        return
    figures = train_variants(share_variants(config, options.shares), options.data, options.out, options.downloads)
    (options.out / SHARES_TABLE).write_text(json.dumps(figures, indent=1) + "\n")
    draw_shares(figures, options.out / "shares.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's error is one line and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        _run(_arguments(argv))
    except LookalikeError as error:
        _log.error("%s", error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
