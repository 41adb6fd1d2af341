"""Labels photos without boxes by the 80-class detector, so that training keeps what COCO taught about other things.

Run:
    python -m training.detector.teach --out var/teach

Self-training with a teacher's confident boxes, as in https://arxiv.org/abs/2005.04757: a photo is
kept when one box is confident and no other rivals it.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from lookalike.boxes import box_iou
from lookalike.detection import Detector
from lookalike.errors import LookalikeError, SetupError
from lookalike.schemas import Detection
from training.detector.config import PICODET, DetectorConfig, load_config
from training.detector.network import coco_weights
from training.detector.report import TorchSession
from training.networks import load_network

COLUMNS = ("file", "split", "source", "category", "label", "x1", "y1", "x2", "y2", "all_boxes")
_COCO_PX, _COCO_CLASSES = 416, 80
_RIVAL = 0.5  # of the best score; another box that scores more makes the photo ambiguous
_SAME_IOU = 0.5  # a box that overlaps the best so much is another name for the same thing


def coco_detector(config: DetectorConfig, downloads_dir: Path) -> Detector:
    """Return the 80-class detector that the configuration starts from, at the size that COCO taught it.

    Raises:
        SetupError: when the configuration names no such weights, or they cannot be had.
    """
    weights = coco_weights(config.start, downloads_dir)
    if weights is None:
        raise SetupError("the configuration's start has no source: there is no teacher")
    preprocess = config.preprocess.model_copy(update={"height_px": _COCO_PX, "width_px": _COCO_PX})
    session = TorchSession(load_network(PICODET, weights, preprocess))
    return Detector(session, preprocess, [str(number) for number in range(_COCO_CLASSES)])


def sole_subject(detections: Sequence[Detection], min_score: float) -> Detection | None:
    """Return the best of `detections` (best first), or None when it is unsure or has a rival elsewhere."""
    if not detections or detections[0].score < min_score:
        return None
    best = detections[0]
    rivals = [found for found in detections[1:] if found.score >= _RIVAL * best.score]
    if rivals:
        overlap = box_iou(np.array([best.box]), np.array([found.box for found in rivals]))[0]
        if (overlap < _SAME_IOU).any():
            return None
    return best


def unlabelled_photos(folder: Path, sets: Sequence[str], most: int, seed: int) -> Iterator[tuple[Path, str, str]]:
    """Yield path, set and class of up to `most` train photos of each of `sets`, drawn at random.

    Raises:
        SetupError: when the manifest is missing.
    """
    manifest = folder / "manifest.csv"
    if not manifest.exists():
        raise SetupError(f"there is no {manifest}: set LOOKALIKE_DATA to the folder that holds retrieval/")
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    for name in sets:
        found = [row for row in rows if row["set"] == name]
        for number in np.random.default_rng(seed).permutation(len(found))[:most]:
            yield folder / found[number]["file"], name, found[number]["class_name"]


def teach(detector: Detector, photos: Sequence[tuple[Path, str, str]], out: Path, min_score: float) -> tuple[int, int]:
    """Write `manifest.csv` into `out` with the photos that have a sole subject; return how many, and of how many.

    Raises:
        SetupError: when a photo cannot be read.
    """
    out.mkdir(parents=True, exist_ok=True)
    kept = 0
    with (out / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for path, source, label in tqdm(photos, disable=None):
            try:
                image = Image.open(path).convert("RGB")
            except OSError as error:
                raise SetupError(f"{path} cannot be read: {error}") from error
            (detections,) = detector.detect(detector.preprocess.fit(image)[None], [image.size], min_score / 2)
            subject = sole_subject(detections, min_score)
            if subject is not None:
                box = [round(edge, 1) for edge in subject.box]
                writer.writerow([path.resolve(), "train", source, "object", label, *box, json.dumps([[label, *box]])])
                kept += 1
    return kept, len(photos)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's error is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Label photos by a detector of many classes.")
    parser.add_argument("--config", type=Path, default=Path("training/configs/detector.yaml"), help="names the teacher")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")))
    parser.add_argument("--sets", nargs="+", default=["caltech101", "cars196"])
    parser.add_argument("--most", type=int, default=700, help="photos of each set")
    parser.add_argument("--min-score", type=float, default=0.55)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--downloads", type=Path, default=Path("var/downloads"))
    parser.add_argument("--out", type=Path, default=Path("var/teach"))
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        detector = coco_detector(load_config(options.config), options.downloads)
        photos = list(unlabelled_photos(options.data / "retrieval", options.sets, options.most, options.seed))
        kept, seen = teach(detector, photos, options.out, options.min_score)
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(f"{kept} of {seen} photos have one confident subject: {options.out / 'manifest.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
