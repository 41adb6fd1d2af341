"""Writes a manifest with the heads' guesses beside the labels, and its images as files: cases for `lookalike review`.

python -m training.metadata.cases articleType --split val --out var/metadata-cases
"""

import argparse
import csv
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lookalike.attributes import Describer
from lookalike.config import ModelSettings
from lookalike.errors import LookalikeError, SetupError
from lookalike.index.durable import replace_file
from lookalike.metadata import CropDescriber
from training.metadata.config import load_config
from training.metadata.data import ImageFiles, ZipImages
from training.metadata.sets import SPLITS, Catalogue, Labelled, readable

IMAGE, GUESS, CONFIDENCE = "id", "predicted", "confidence"


def guessed(describer: Describer, part: Labelled, attribute: str) -> dict[str, tuple[str, float]]:
    """Return for each row, by its image, the label with the highest score, and that score.

    Raises:
        SetupError: there is no head for the attribute.
    """
    if attribute not in describer.labels():
        raise SetupError(f"no head for {attribute!r}", allowed=list(describer.labels()))
    labels, scores = describer.labels()[attribute], describer.scores(part.features)[attribute]
    best = scores.argmax(axis=1)
    highest = scores[np.arange(len(best)), best]
    return {
        row.image: (labels[label], float(score)) for row, label, score in zip(part.rows, best, highest, strict=True)
    }


def with_guesses(manifest: Path, guesses: Mapping[str, tuple[str, float]]) -> str:
    """Return the manifest, every row and column of it, with the guesses of the images that have one."""
    with manifest.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = [column for column in reader.fieldnames or [] if column not in (GUESS, CONFIDENCE)]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [*columns, GUESS, CONFIDENCE], lineterminator="\n")
        writer.writeheader()
        for row in reader:
            label, score = guesses.get(row[IMAGE], ("", 0.0))
            writer.writerow({**row, GUESS: label, CONFIDENCE: f"{score:.4f}" if label else ""})
    return text.getvalue()


def unpack(images: ImageFiles, names: Sequence[str], folder: Path) -> None:
    """Write the images as `<name>.jpg`; those that are there already stay.

    Raises:
        SetupError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in tqdm(names, "images", unit="image", disable=None):
            if not (file := folder / f"{name}.jpg").exists():
                replace_file(file, images.read(name))
    except OSError as error:
        raise SetupError(f"{folder} cannot be written ({error.strerror})") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's error is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Write the metadata heads' guesses as cases for the review.")
    parser.add_argument("attribute", help="whose labels are reviewed: articleType, baseColour, ...")
    parser.add_argument("--config", type=Path, default=Path("training/configs/metadata.yaml"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")))
    parser.add_argument("--model", type=Path, default=Path("var/models/metadata_creator"))
    parser.add_argument("--cache", type=Path, default=Path("var/cache/metadata"), help="keeps features; may be deleted")
    parser.add_argument("--out", type=Path, default=Path("var/metadata-cases"))
    parser.add_argument("--manifest", type=Path, help="a reviewed one, in place of the config's")
    parser.add_argument("--split", choices=SPLITS, default="val")
    options = parser.parse_args(argv)
    try:
        config = load_config(options.config)
        if options.manifest:
            data = config.data.model_copy(update={"manifest": options.manifest.absolute()})
            config = config.model_copy(update={"data": data})
        model = CropDescriber.load(options.model, ModelSettings.load())
        part = readable(Catalogue(config, options.data, model.network, options.cache).split(options.split))
        guesses = guessed(model.heads, part, options.attribute)
        unpack(ZipImages(options.data / config.data.images), list(guesses), options.out / "images")
        table = options.out / f"{options.attribute}.csv"
        replace_file(table, with_guesses(options.data / config.data.manifest, guesses).encode())
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(
        f"{len(guesses)} cases; next: lookalike review {table} --imgroot {options.out / 'images'} "
        f"--image-column {IMAGE} --image-suffix .jpg --guessed --label-column {options.attribute}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
