"""Writes a manifest with the heads' guesses beside the labels, and its images as files: cases for `lookalike review`.

python -m training.metadata.cases articleType --split val --out var/metadata-cases
"""

import argparse
import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from lookalike.attributes import Describer
from lookalike.errors import LookalikeError, SetupError
from lookalike.index.durable import replace_file
from lookalike.review.table_source import GUESS, SCORE
from training.metadata.data import ImageFiles, ZipImages
from training.metadata.guesses import add_options, best_guesses, read_model_and_rows
from training.metadata.sets import Labelled

IMAGE = "id"


def guessed(describer: Describer, part: Labelled, attribute: str) -> dict[str, tuple[str, float]]:
    """Return for each row, by its image, the label with the highest score, and that score.

    Raises:
        SetupError: there is no head for the attribute.
    """
    if attribute not in describer.labels():
        raise SetupError(f"no head for {attribute!r}", allowed=list(describer.labels()))
    labels, scores = best_guesses(describer, part)[attribute]
    images = [row.image for row in part.rows]
    return dict(zip(images, zip(labels.tolist(), scores.tolist(), strict=True), strict=True))


def with_guesses(manifest: Path, guesses: Mapping[str, tuple[str, float]]) -> str:
    """Return the manifest, every row and column of it, with the guesses of the images that have one."""
    with manifest.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = [column for column in reader.fieldnames or [] if column not in (GUESS, SCORE)]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [*columns, GUESS, SCORE], lineterminator="\n")
        writer.writeheader()
        for row in reader:
            label, score = guesses.get(row[IMAGE], ("", 0.0))
            writer.writerow({**row, GUESS: label, SCORE: f"{score:.4f}" if label else ""})
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
    add_options(parser, Path("var/metadata-cases"), "val")
    options = parser.parse_args(argv)
    try:
        config, heads, part = read_model_and_rows(options)
        guesses = guessed(heads, part, options.attribute)
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
