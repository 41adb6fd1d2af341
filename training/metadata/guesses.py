"""What a built metadata model guesses for the rows of a split: read once here for the commands that look at guesses."""

import argparse
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.attributes import Describer
from lookalike.config import ModelSettings
from lookalike.metadata import CropDescriber
from training.metadata.config import TrainingConfig, load_config
from training.metadata.sets import SPLITS, Catalogue, Labelled, readable


def add_options(parser: argparse.ArgumentParser, out: Path, split: str) -> None:
    """Add the options that say which model, which rows and where to write, with these defaults of a command's own."""
    parser.add_argument("--config", type=Path, default=Path("training/configs/metadata.yaml"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")))
    parser.add_argument("--model", type=Path, default=Path("var/models/metadata_creator"))
    parser.add_argument("--cache", type=Path, default=Path("var/cache/metadata"), help="keeps features; may be deleted")
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--manifest", type=Path, help="a reviewed one, in place of the config's")
    parser.add_argument("--split", choices=SPLITS, default=split)


def read_model_and_rows(options: argparse.Namespace) -> tuple[TrainingConfig, Describer, Labelled]:
    """Return the configuration, the model's heads, and the split's readable rows with their features.

    Raises:
        SetupError: something of it cannot be read, or does not belong together.
    """
    config = load_config(options.config)
    if options.manifest:
        data = config.data.model_copy(update={"manifest": options.manifest.absolute()})
        config = config.model_copy(update={"data": data})
    model = CropDescriber.load(options.model, ModelSettings.load())
    part = readable(Catalogue(config, options.data, model.network, options.cache).split(options.split))
    return config, model.heads, part


def best_guesses(describer: Describer, part: Labelled) -> dict[str, tuple[NDArray[np.str_], NDArray[np.float32]]]:
    """Return each attribute's most likely labels of the rows, `(n,)` str, and their scores, `(n,)` float32."""
    scores = describer.scores(part.features)
    return {
        name: (np.array(labels)[scores[name].argmax(axis=1)], scores[name].max(axis=1))
        for name, labels in describer.labels().items()
    }
