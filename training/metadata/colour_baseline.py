"""The floor for baseColour: a colour histogram of each picture and logistic regression, without any network.

    python -m training.metadata.colour_baseline --json var/colour_baseline.json

fits on train, takes what is most accurate on val, and measures it on val and test.
"""

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from lookalike.errors import SetupError
from training.metadata.config import TrainingConfig, load_config
from training.metadata.data import IGNORED, ImageFiles, Row, ZipImages, class_numbers, label_lists, read_rows
from training.metadata.pictures import decoded
from training.metadata.report import Figures, attribute_figures, figures_table, sure_threshold
from training.metadata.sets import SPLITS
from training.own_log import exit_status

Floats = NDArray[np.float32]
Numbers = NDArray[np.int64]

ATTRIBUTE = "baseColour"
LEVELS = 32  # of each RGB channel: pixels are counted in cells of 8x8x8 colours, and only cells are looked at
GROUND_LEVEL = 30  # a cell whose three channels all reach it is the shop's white ground, or something as white
LIGHTNESS = np.linspace(0, 100, 11)
CHROMA = np.array([-60, -30, -15, -7, -2.5, 2.5, 7, 15, 30, 60])  # a and b: most goods are nearly grey
GROUND_WEIGHT = 0.1  # val chose it
STRENGTHS = (3.0, 10.0, 30.0)  # inverse of the L2 penalty
STEPS = 60  # of the solver

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counted:
    """Rows and how many pixels of their pictures fall in each RGB cell, `(n, LEVELS ** 3)`, in the same order."""

    rows: list[Row]
    cells: csr_array


def count_colours(manifest: Path, files: ImageFiles, rows: Sequence[Row]) -> Counted:
    """Count the pixels of all pictures that can be read; each other one is named by its line.

    Raises:
        SetupError: when none can.
    """
    kept, found, counts = [], [], []
    for row, (cells, pixels) in decoded("pictures", manifest, files, rows, _cells_of):
        kept.append(row)
        found.append(cells)
        counts.append(pixels)
    starts = np.cumsum([0, *(len(cells) for cells in found)])
    values = np.concatenate(counts).astype(np.float32)
    return Counted(kept, csr_array((values, np.concatenate(found), starts), shape=(len(kept), LEVELS**3)))


def _cells_of(image: Image.Image) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the RGB cells that a picture has, and how many of its pixels each."""
    return np.unique(cell_numbers(np.asarray(image)), return_counts=True)


def cell_numbers(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the RGB cell `(h * w,)` of each of `(h, w, 3)` pixels."""
    red, green, blue = (pixels.reshape(-1, 3).astype(np.int32) * LEVELS // 256).T
    return np.asarray((red * LEVELS + green) * LEVELS + blue, np.int32)


def cell_levels() -> Numbers:
    """Return the three levels `(LEVELS ** 3, 3)` of each cell, in the order of `cell_numbers`."""
    return np.indices((LEVELS, LEVELS, LEVELS)).reshape(3, -1).T.astype(np.int64)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return CIE L*a*b* (D65) `(n, 3)` of sRGB `(n, 3)` in [0, 1]; IEC 61966-2-1."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / to_xyz.sum(axis=1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@cache
def soft_bins() -> csr_array:
    """Return how much of each RGB cell belongs to each bin of Lab, `(LEVELS ** 3, bins)`: linear between two edges."""
    colours = lab((cell_levels() + 0.5) / LEVELS)
    shares = [_shares(axis, edges) for axis, edges in zip(colours.T, (LIGHTNESS, CHROMA, CHROMA), strict=True)]
    joint = np.einsum("nl,na,nb->nlab", *shares).reshape(len(colours), -1)
    return csr_array(joint[:, joint.any(axis=0)].astype(np.float32))


def _shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> Floats:
    return np.stack([np.interp(values, edges, hat) for hat in np.eye(len(edges))], axis=1).astype(np.float32)


def histograms(cells: csr_array, ground_weight: float) -> csr_array:
    """Return the square roots of each picture's colour shares `(n, bins)`: Euclid's distance there is Hellinger's."""
    weights = np.where((cell_levels() >= GROUND_LEVEL).all(axis=1), np.float32(ground_weight), np.float32(1))
    counts = csr_array(csr_array(cells * weights[None]) @ soft_bins())
    counts.data = np.sqrt(counts.data / np.repeat(np.maximum(counts.sum(axis=1), 1e-6), np.diff(counts.indptr)))
    return counts


class ColourBaseline:
    """The labels, the splits as counted colours, and the regression that val chose."""

    def __init__(self, config: TrainingConfig, data_dir: Path) -> None:
        """Read and count the pictures of all rows whose colour is known.

        Raises:
            SetupError: for data that is missing or wrong.
        """
        manifest, files = data_dir / config.data.manifest, ZipImages(data_dir / config.data.images)
        rows = [row for row in read_rows(manifest, "id", [ATTRIBUTE], splits=SPLITS) if row.values[ATTRIBUTE]]
        parts = {split: [row for row in rows if row.split == split] for split in SPLITS}
        self._parts = {split: count_colours(manifest, files, part) for split, part in parts.items()}
        self._labels = label_lists(self._parts["train"].rows, [ATTRIBUTE], config.min_count)
        if len(self._labels[ATTRIBUTE]) < 2:
            raise SetupError(f"{ATTRIBUTE}: fewer than two labels have {config.min_count} train rows")
        self._aim = next((aim.precision for aim in config.attributes if aim.name == ATTRIBUTE), 1.0)
        self._least_score = config.least_score

    def measure(self, ground_weights: Sequence[float], strengths: Sequence[float]) -> tuple[str, dict[str, Figures]]:
        """Return what val chose, in words, and its figures on val and test."""
        fitted = [self._fit(weight, strength) for weight, strength in product(ground_weights, strengths)]
        _, choice, scores = max(fitted, key=lambda result: result[0])
        val = self._classes("val")
        right, confidence = scores["val"].argmax(axis=1) == val, scores["val"].max(axis=1)
        threshold = sure_threshold(confidence, right, self._aim, self._least_score)
        return choice, {
            split: attribute_figures(found, self._classes(split), found.max(axis=1) >= threshold)
            for split, found in scores.items()
        }

    def _fit(self, ground_weight: float, strength: float) -> tuple[float, str, dict[str, Floats]]:
        """Return the accuracy on val, what was tried, and the scores `(n, labels)` on val and test."""
        inputs = {split: histograms(part.cells, ground_weight) for split, part in self._parts.items()}
        classes = self._classes("train")
        model = LogisticRegression(C=strength, max_iter=STEPS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # STEPS keeps the time short: a floor may be low
            model.fit(inputs["train"][classes != IGNORED], classes[classes != IGNORED])
        # Each label has train rows, so that the model's classes are the labels, in their order.
        scores = {split: model.predict_proba(inputs[split]).astype(np.float32) for split in ("val", "test")}
        accuracy = float((scores["val"].argmax(axis=1) == self._classes("val")).mean())
        choice = f"white ground weighted {ground_weight:g}, C {strength:g}, {inputs['train'].shape[1]} bins"
        _log.info("%s: accuracy on val %.2f %%", choice, 100 * accuracy)
        return accuracy, choice, scores

    def _classes(self, split: str) -> Numbers:
        return class_numbers(self._parts[split].rows, self._labels)[ATTRIBUTE]


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; a user's error is one line and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", type=Path, default=Path("training/configs/metadata.yaml"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")))
    parser.add_argument("--ground-weights", type=float, nargs="+", default=[GROUND_WEIGHT], help="of white pixels")
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS, help="inverse of the L2 penalty")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args(argv)

    def run() -> None:
        baseline = ColourBaseline(load_config(options.config), options.data)
        choice, figures = baseline.measure(options.ground_weights, options.strengths)
        Console(width=120).print(figures_table(f"{ATTRIBUTE} by its colours alone: {choice}", figures))
        if options.json:
            found = {split: part._asdict() for split, part in figures.items()}
            text = json.dumps({"choice": choice, "figures": found}, indent=1) + "\n"
            options.json.write_text(text, encoding="utf-8")

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
