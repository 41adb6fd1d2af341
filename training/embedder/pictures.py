"""The pictures that an embedder is trained on: where they lie, of which class they are, which classes are held out."""

import csv
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from lookalike.errors import SetupError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_COLUMNS = ("file", "set", "split", "role", "class_id")


class Picture(NamedTuple):
    """One picture of one class of one set."""

    path: Path
    set_name: str
    class_id: str  # of its set; two sets may use the same
    origin: str  # the file and line that names it
    role: str = "any"  # any (query and item at once), query, gallery, iconic


class Holdout(NamedTuple):
    """The pictures of one set: those of the classes that are trained on, and those of the others."""

    train: list[Picture]
    validation: list[Picture]


def read_retrieval(folder: Path, name: str) -> list[Picture]:
    """Return the training pictures of the set `name` of a retrieval manifest.

    Raises:
        SetupError: naming file and line, for a missing manifest, column, field, picture or set.
    """
    manifest = folder / "manifest.csv"
    try:
        with manifest.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise SetupError(f"{manifest}: cannot be read ({error.strerror})") from error
    if missing := [column for column in _COLUMNS if rows and column not in rows[0]]:
        raise SetupError(f"{manifest}:1: there is no column {', '.join(missing)}", allowed=_COLUMNS)
    pictures = [
        _retrieval_picture(folder, row, f"{manifest}:{line}", name)
        for line, row in enumerate(rows, 2)
        if row["set"] == name and row["split"] == "train"
    ]
    if not pictures:
        allowed = sorted({row["set"] for row in rows if row["split"] == "train"})
        raise SetupError(f"{manifest}: no set {name!r} has training pictures", allowed=allowed)
    return pictures


def _retrieval_picture(folder: Path, row: dict[str, str], origin: str, name: str) -> Picture:
    if not row["file"] or not row["class_id"]:
        raise SetupError(f"{origin}: file and class_id may not be empty")
    if not (folder / row["file"]).is_file():
        raise SetupError(f"{origin}: there is no {folder / row['file']}")
    return Picture(folder / row["file"], name, row["class_id"], origin, row["role"])


def read_instances(folder: Path, name: str, pattern: str = "*") -> list[Picture]:
    """Return every picture in a folder whose name fits `pattern`, each its own class.

    Raises:
        SetupError: when there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise SetupError(f"{folder}: there is no such folder")
    paths = sorted(path for path in folder.glob(pattern) if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise SetupError(f"{folder}: holds no pictures named {pattern}", allowed=sorted(IMAGE_SUFFIXES))
    return [Picture(path, name, path.name, str(path)) for path in paths]


def held_out(pictures: Sequence[Picture], share: float, seed: int) -> Holdout:
    """Split off `share` of the classes, at least one where the share is not 0.

    Raises:
        SetupError: when fewer than two classes are left to train on.
    """
    classes = sorted({picture.class_id for picture in pictures})
    random.Random(f"{seed} {pictures[0].set_name}").shuffle(classes)
    count = max(1, round(share * len(classes))) if share else 0
    if len(classes) - count < 2:
        raise SetupError(f"{pictures[0].set_name}: of {len(classes)} classes {count} are held out; two must be left")
    away = set(classes[:count])
    return Holdout(
        [picture for picture in pictures if picture.class_id not in away],
        [picture for picture in pictures if picture.class_id in away],
    )


def by_class(pictures: Iterable[Picture]) -> dict[str, list[int]]:
    """Return the positions of each class's pictures, classes in order."""
    positions: dict[str, list[int]] = defaultdict(list)
    for position, picture in enumerate(pictures):
        positions[picture.class_id].append(position)
    return dict(sorted(positions.items()))


def check_classes(pictures: Sequence[Picture], least: int) -> None:
    """Accept classes of at least `least` pictures each.

    Raises:
        SetupError: naming the first class that is smaller, and the line of its first picture.
    """
    for class_id, positions in by_class(pictures).items():
        if len(positions) < least:
            first = pictures[positions[0]]
            raise SetupError(f"{first.origin}: class {class_id!r} has {len(positions)} pictures; at least {least}")


def open_picture(picture: Picture) -> Image.Image:
    """Return the decoded picture, rotated as its EXIF says, RGB or, where it is transparent, RGBA.

    Raises:
        SetupError: naming the file and the line that lists it, when it cannot be read.
    """
    try:
        with Image.open(picture.path) as image:
            upright = ImageOps.exif_transpose(image)
            return upright.convert("RGBA" if upright.mode in ("RGBA", "LA", "PA") else "RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SetupError(f"{picture.origin}: {picture.path} cannot be read as an image ({error})") from error


def readable(pictures: Sequence[Picture], bad_images: str) -> tuple[list[Picture], list[str]]:
    """Return the pictures whose header can be read, and what is wrong with the others.

    Raises:
        SetupError: for the first bad one when `bad_images` is `stop`.
    """
    good, wrong = [], []
    for picture in pictures:
        try:
            with Image.open(picture.path):
                good.append(picture)
        except (OSError, SyntaxError, ValueError) as error:
            wrong.append(f"{picture.origin}: {picture.path} cannot be read as an image ({error})")
            if bad_images == "stop":
                raise SetupError(wrong[0]) from error
    return good, wrong
