"""Measures a built detector on the autocrop set: how well the best box covers the subject, source by source.

Run:
    python -m training.evaluate_detector --model var/models/detector
    python -m training.evaluate_detector --weights var/runs/detector/subject.safetensors --split application

`val` is the test split: no training, tuning or threshold has seen it. `application` is every photo of the sources that
the detector's configuration keeps out altogether.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from lookalike.boxes import box_iou
from lookalike.config import ModelSettings, RouterSettings
from lookalike.detection import Detector
from lookalike.errors import LookalikeError, SetupError
from lookalike.evaluation import share_of_misses
from lookalike.images import decode_image
from lookalike.schemas import Box
from training.detector.pictures import WORST_PHOTOS, draw_worst
from training.enlarged import enlarged_jpeg
from training.evaluate_embedder import data_dir

APPLICATION = "application"
APPLICATION_SOURCES = ("raccoon_dataset",)


class LabelledPhoto(NamedTuple):
    """A photo with one subject."""

    path: Path
    source: str
    box: Box


class CropScores(NamedTuple):
    """The scores of one source: `iou` of the best box (the whole image when there is none) with the subject's."""

    photos: int
    mean_iou: float
    misses: float  # share of photos with IoU < 0.1
    found: float  # share of photos with any detection
    best_of_five_iou: float  # of the best five boxes, the one that covers the subject best
    whole_image_iou: float  # what no detector at all would score


def read_autocrop_manifest(
    folder: Path, split: str, application_sources: Sequence[str] = APPLICATION_SOURCES
) -> list[LabelledPhoto]:
    """Return the photos of `split` with exactly one box; `application` is every photo of `application_sources`.

    Raises:
        SetupError: when the manifest is missing.
    """
    manifest = folder / "manifest.csv"
    if not manifest.exists():
        raise SetupError(f"there is no {manifest}: set LOOKALIKE_DATA to the folder that holds autocrop/")
    with manifest.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["n_boxes"] == "1"]
    if split == APPLICATION:
        rows = [row for row in rows if row["source"] in application_sources]
    else:
        rows = [row for row in rows if row["split"] == split]
    return [
        LabelledPhoto(
            folder / row["file"],
            row["source"],
            (float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"])),
        )
        for row in rows
    ]


def measure_photo(
    detector: Detector, photo: LabelledPhoto, min_score: float, enlarge_px: int | None = None
) -> tuple[float, ...]:
    """Return IoU of the best box, whether one was found, best IoU of five, IoU of the whole image, milliseconds.

    With `enlarge_px` the photo is a JPEG with so many pixels along its shortest edge, decoded as the router does.
    """
    image = Image.open(photo.path).convert("RGB")
    seen = image
    if enlarge_px is not None:
        router = RouterSettings()
        seen = decode_image(enlarged_jpeg(image, enlarge_px), router.limits, router.look_px).pixels
    start_s = time.perf_counter()
    pixels = detector.preprocess.fit(seen)[None]
    (detections,) = detector.detect(pixels, [image.size], min_score)
    elapsed_ms = (time.perf_counter() - start_s) * 1000
    whole: Box = (0.0, 0.0, float(image.width), float(image.height))
    boxes = np.array([detection.box for detection in detections[:5]] or [whole])
    ious = box_iou(np.vstack([boxes, whole]), np.array([photo.box]))[:, 0]
    return float(ious[0]), float(bool(detections)), float(ious[:-1].max()), float(ious[-1]), elapsed_ms


def score_sources(sources: Sequence[str], figures: NDArray[np.float64]) -> dict[str, CropScores]:
    """Return each source's scores from `figures` `(n, 4)`, the first four numbers of `measure_photo` a photo."""
    scores = {}
    names = np.array(sources)
    for source in sorted(set(sources)):
        best, found, best_of_five, whole = figures[names == source].T
        scores[source] = CropScores(
            photos=len(best),
            mean_iou=float(best.mean()),
            misses=share_of_misses(best),
            found=float(found.mean()),
            best_of_five_iou=float(best_of_five.mean()),
            whole_image_iou=float(whole.mean()),
        )
    return scores


def format_scores(scores: dict[str, CropScores]) -> str:
    """Return the scores as a Markdown table, with the plain mean over the sources last."""
    lines = [
        "| source | photos | mean IoU | IoU < 0.1 | any box | best of 5 | whole image |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = [(name, str(score.photos), score[1:]) for name, score in scores.items()]
    means = tuple(np.mean([score[1:] for score in scores.values()], axis=0))
    for name, photos, figures in [*rows, ("mean over sources", "", means)]:
        lines.append(f"| {name} | {photos} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")
    return "\n".join(lines)


def _detector(options: argparse.Namespace) -> Detector:
    if options.weights is None:
        return Detector.load(options.model, ModelSettings.load({"threads": options.threads}))
    # A built model needs no torch; it takes seconds to import.
    import torch

    from training.detector.config import load_config
    from training.detector.report import detector_from_weights

    if options.threads:
        torch.set_num_threads(options.threads)
    return detector_from_weights(options.weights, load_config(options.config))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description="Measure a detector on the autocrop set.")
    parser.add_argument("--model", type=Path, default=Path("var/models/detector"))
    parser.add_argument("--data", type=Path, default=data_dir(), help="the folder that holds autocrop/")
    parser.add_argument("--weights", type=Path, help="a training run's weights instead of a built model")
    parser.add_argument("--config", type=Path, default=Path("training/configs/detector.yaml"), help="of --weights")
    parser.add_argument("--split", choices=["train", "val", APPLICATION], default="val")
    parser.add_argument("--min-score", type=float, default=RouterSettings.model_fields["min_detection_score"].default)
    parser.add_argument("--worst", type=Path, help="write a picture of the 30 worst photos to this file")
    parser.add_argument("--threads", type=int, default=0, help="0: one a core")
    parser.add_argument("--json", type=Path, help="write the scores to this file, too")
    parser.add_argument("--enlarge-px", type=int, help="first make each photo a JPEG with this shortest edge")
    options = parser.parse_args(argv)
    try:
        detector = _detector(options)
        photos = read_autocrop_manifest(options.data / "autocrop", options.split)
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    measured = (measure_photo(detector, photo, options.min_score, options.enlarge_px) for photo in photos)
    figures = np.array(list(tqdm(measured, total=len(photos), disable=None)))
    scores = score_sources([photo.source for photo in photos], figures[:, :4])
    print(format_scores(scores))
    print(f"median {np.median(figures[:, 4]):.1f} ms a photo (resize, network, suppression)")
    if options.worst:
        order = np.argsort(figures[:, 0])[:WORST_PHOTOS]
        worst = [(photos[row].path, photos[row].box, float(figures[row, 0])) for row in order]
        draw_worst(detector, worst, options.min_score).save(options.worst)
    if options.json:
        options.json.write_text(json.dumps({name: score._asdict() for name, score in scores.items()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
