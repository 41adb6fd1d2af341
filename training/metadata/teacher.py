"""The scores of a larger model on the train split, as soft labels for a smaller one to learn from.

python -m training.metadata.teacher --model var/models/metadata_creator --out var/teacher.npz
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lookalike.config import ModelSettings
from lookalike.errors import LookalikeError, SetupError
from lookalike.metadata import CropDescriber
from training.metadata.config import load_config
from training.metadata.data import Row
from training.metadata.sets import Catalogue


class TeacherScores:
    """Scores of each attribute by image; `labels` are the teacher's own, in its order."""

    def __init__(
        self, images: Sequence[str], labels: Mapping[str, Sequence[str]], scores: Mapping[str, NDArray[np.float16]]
    ) -> None:
        self._rows = {image: row for row, image in enumerate(images)}
        self._labels, self._scores = labels, scores

    def scores_of(self, rows: Sequence[Row], labels: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
        """Return `(n, labels)` float32 by attribute, in the student's order; NaN for an image that was not shown.

        Raises:
            SetupError: when the teacher does not know an attribute or a label.
        """
        at = np.array([self._rows.get(row.image, -1) for row in rows])
        found = {}
        for name, wanted in labels.items():
            mine = list(self._labels.get(name, []))
            if missing := [label for label in wanted if label not in mine]:
                raise SetupError(f"the teacher does not know {name} {missing[:5]}")
            scores = self._scores[name].astype(np.float32)[:, [mine.index(label) for label in wanted]]
            found[name] = torch.from_numpy(np.where(at[:, None] < 0, np.nan, scores[at]).astype(np.float32))
        return found


def read_teacher(path: Path) -> TeacherScores:
    """Read what this command wrote.

    Raises:
        SetupError: when it is missing or something else.
    """
    try:
        with np.load(path) as kept:
            names = [name.removeprefix("labels/") for name in kept.files if name.startswith("labels/")]
            labels = {name: kept[f"labels/{name}"].tolist() for name in names}
            return TeacherScores(kept["images"].tolist(), labels, {name: kept[f"scores/{name}"] for name in names})
    except (OSError, KeyError, ValueError) as error:
        raise SetupError(f"{path} holds no teacher's scores: {error}") from error


def write_teacher(
    path: Path, images: Sequence[str], labels: Mapping[str, Sequence[str]], scores: Mapping[str, NDArray[np.float32]]
) -> None:
    """Write scores `(n, labels)` of each attribute for `images`."""
    arrays = {f"labels/{name}": np.array(listed) for name, listed in labels.items()}
    arrays |= {f"scores/{name}": matrix.astype(np.float16) for name, matrix in scores.items()}
    np.savez(path, images=np.array(images), **arrays)  # type: ignore[arg-type]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's error is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Write a metadata model's scores on the train split.")
    parser.add_argument("--config", type=Path, default=Path("training/configs/metadata.yaml"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")))
    parser.add_argument("--model", type=Path, default=Path("var/models/metadata_creator"))
    parser.add_argument("--cache", type=Path, default=Path("var/cache/metadata"), help="keeps features; may be deleted")
    parser.add_argument("--out", type=Path, default=Path("var/teacher.npz"))
    options = parser.parse_args(argv)
    try:
        model = CropDescriber.load(options.model, ModelSettings.load())
        train = Catalogue(load_config(options.config), options.data, model.network, options.cache).split("train")
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    write_teacher(
        options.out, [row.image for row in train.rows], model.heads.labels(), model.heads.scores(train.features)
    )
    print(f"{options.out}: scores of {len(train.rows)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
