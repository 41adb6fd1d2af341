"""Writes a tiny set of the autocrop set's shape: red squares on grey noise, three sources of eight photos."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from training.detector.config import DetectorConfig

COLUMNS = [
    "file",
    "split",
    "source",
    "category",
    "width",
    "height",
    "x1",
    "y1",
    "x2",
    "y2",
    "n_boxes",
    "label",
    "all_boxes",
]


def write_row(folder: Path, name: str, source: str, box: list[float], split: str = "train") -> dict[str, object]:
    """Draw a red square on grey noise and return its row."""
    noise = np.random.default_rng(len(name)).integers(90, 130, (96, 128, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    ImageDraw.Draw(image).rectangle(box, fill="red")
    image.save(folder / name)
    corners = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
    boxes = json.dumps([["thing", *box]])
    row = {
        "file": name,
        "split": split,
        "source": source,
        "category": "object",
        "width": 128,
        "height": 96,
    }
    return {**row, **corners, "n_boxes": 1, "label": name, "all_boxes": boxes}


def write_manifest(folder: Path, rows: list[dict[str, object]]) -> None:
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def write_tiny_autocrop(parent: Path) -> Path:
    """Write `autocrop/` into a new data folder in `parent`; return the data folder."""
    folder = parent / "data" / "autocrop"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    rows = []
    for source in ("one", "two", "kept-out"):
        for number in range(8):
            x, y = generator.integers(4, 40, 2).tolist()
            rows.append(write_row(folder, f"{source}{number}.png", source, [x, y, x + 50.0, y + 40.0]))
    write_manifest(folder, rows)
    return parent / "data"


def tiny_config(**changes: object) -> DetectorConfig:
    settings: dict[str, object] = {
        "seed": 1,
        "device": "cpu",
        "workers": 0,
        "checkpoint_steps": 1,
        "preprocess": {"height_px": 64, "width_px": 64, "mean": [0.5] * 3, "std": [0.25] * 3},
        "data": {
            "application_sources": ["kept-out"],
            "folds": 4,
            "views_per_epoch": 8,
            "mix": {"one": 1.0, "two": 1.0},
        },
        "optimiser": {"epochs": 2, "batch": 4, "rate": 0.001},
    }
    return DetectorConfig.model_validate({**settings, **changes})
