"""The photos that the subject detector learns from: checked rows, the carved validation split, views and batches."""

import csv
import json
import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor
from torch.utils.data import Dataset

from lookalike.errors import SetupError
from lookalike.preprocessing import Preprocess
from lookalike.schemas import Box
from training.detector.augment import Sample, augment
from training.detector.compose import Kit, Scene, render
from training.detector.config import AugmentSettings, DataSettings
from training.detector.loss import Truth

RENDERED = "rendered:"  # before the name of a scene, in the mix
_CLASS_SOURCES = ("freiburg-groceries-boxes",)  # the test split has other classes: so has the validation split

_log = logging.getLogger(__name__)


class Photo(NamedTuple):
    """A row of the manifest that was found right."""

    path: Path
    source: str
    group: str  # photos of one group are all in training or all in validation
    rectangular: bool  # the subject fills its box, so that a turned photo's box stays exact
    subject: Box
    others: tuple[Box, ...]


class Batch(NamedTuple):
    """Inputs of the network, boxes padded to the most that one image has."""

    pixels: Tensor  # (n, h, w, 3) uint8
    truth: Truth


def read_photos(folder: Path, split: str, on_bad_row: Literal["stop", "skip"]) -> list[Photo]:
    """Return the photos of the manifest's `split`, each opened once and its boxes checked.

    Raises:
        SetupError: for a missing manifest and, unless bad rows are skipped, for a bad row: file and line are named.
    """
    manifest = folder / "manifest.csv"
    if not manifest.exists():
        raise SetupError(f"there is no {manifest}: set LOOKALIKE_DATA to the folder that holds autocrop/")
    photos = []
    with manifest.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if row["split"] != split:
                continue
            try:
                photos.append(_photo(folder, row))
            except (ValueError, KeyError, OSError) as error:
                message = f"{manifest}:{reader.line_num}: {row.get('file')}: {error}"
                if on_bad_row == "stop":
                    raise SetupError(message) from error
                _log.warning("%s: skipped", message)
    return photos


def _photo(folder: Path, row: Mapping[str, str]) -> Photo:
    path = folder / row["file"]
    with Image.open(path) as image:
        size = image.size
        image.load()
    subject = _checked([float(row[name]) for name in ("x1", "y1", "x2", "y2")], size)
    boxes = [_checked(entry[1:], size) for entry in json.loads(row["all_boxes"])]
    group = row["label"] if row["source"] in _CLASS_SOURCES else row["file"]
    others = tuple(box for box in boxes if box != subject)
    rectangular = row["category"] == "painting" or row["source"] in (*_CLASS_SOURCES, "edje-playing-cards")
    return Photo(path, row["source"], group, rectangular, subject, others)


def _checked(box: Sequence[float], size: tuple[int, int]) -> Box:
    x1, y1, x2, y2 = map(float, box)
    # Annotators' last pixels may lie half a pixel outside.
    if not (-1 <= x1 < x2 <= size[0] + 1 and -1 <= y1 < y2 <= size[1] + 1):
        raise ValueError(f"the box {[x1, y1, x2, y2]} is empty or outside of the image of {size[0]}x{size[1]} px")
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(size[0])), min(y2, float(size[1]))


def carve(
    photos: Sequence[Photo], settings: DataSettings, seed: int, further: Sequence[Photo] = ()
) -> tuple[list[Photo], list[Photo]]:
    """Return training and validation photos: fold `fold` of `folds`, stratified by source, whole groups.

    `further` photos are only learned from. Photos of the application sources are in neither. Of the validation photos
    only those with one box are kept, as the test split is scored.

    Raises:
        SetupError: when there is no such fold, or a source of the mix has no photo.
    """
    usable = [photo for photo in photos if photo.source not in settings.application_sources]
    if not 0 <= settings.fold < settings.folds:
        raise SetupError(f"there is no fold {settings.fold}", allowed=f"0 to {settings.folds - 1}")
    splitter = StratifiedGroupKFold(settings.folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a source with fewer photos than folds is left to the mix
        folds = list(splitter.split(usable, [p.source for p in usable], [f"{p.source}/{p.group}" for p in usable]))
    train_rows, val_rows = folds[settings.fold]
    train = _first_share([*(usable[row] for row in train_rows), *further], settings.share, seed)
    missing = {name for name in settings.mix if not name.startswith(RENDERED)} - {photo.source for photo in train}
    if missing:
        raise SetupError(f"no training photo is of {sorted(missing)}", allowed=sorted({p.source for p in train}))
    return train, [usable[row] for row in val_rows if not usable[row].others]


def _first_share(photos: list[Photo], share: float, seed: int) -> list[Photo]:
    """Return the same first part of each source's shuffled photos, so that a larger share contains a smaller one."""
    order = np.random.default_rng(seed).permutation(len(photos))
    by_source = defaultdict(list)
    for row in order:
        by_source[photos[row].source].append(photos[row])
    return [photo for source in by_source.values() for photo in source[: max(1, round(len(source) * share))]]


class Views(Dataset[Sample]):
    """The views of one epoch: view `i` of epoch `e` depends on the seed, `e` and `i` alone, so a run can be resumed."""

    def __init__(
        self,
        photos: Sequence[Photo],
        kit: Kit | None,
        data: DataSettings,
        augmenting: AugmentSettings,
        preprocess: Preprocess,
        seed: int,
    ) -> None:
        self.epoch = 0
        self.first = 0  # views before this one are left out: they were seen before a kill
        self._data, self._augmenting, self._preprocess, self._seed = data, augmenting, preprocess, seed
        self._kit = kit
        self._by_source: dict[str, list[Photo]] = defaultdict(list)
        for photo in photos:
            self._by_source[photo.source].append(photo)
        self._names = list(data.mix)
        parts = np.array(list(data.mix.values()))
        self._parts = parts / parts.sum()
        # All are small enough to be kept; decoded before the workers fork, they are decoded once.
        self._decoded = {photo.path: Image.open(photo.path).convert("RGB") for photo in photos}
        if kit is None and any(name.startswith(RENDERED) for name in self._names):
            raise SetupError(f"the mix has rendered scenes, but there is no kit in {data.folder}")

    def __len__(self) -> int:
        return self._data.views_per_epoch - self.first

    def __getitem__(self, index: int) -> Sample:
        """Return view `first + index`."""
        generator = np.random.default_rng([self._seed, self.epoch, self.first + index])
        name = self._names[generator.choice(len(self._names), p=self._parts)]
        if name.startswith(RENDERED):
            assert self._kit is not None
            image, subject = render(self._kit, Scene(name.removeprefix(RENDERED)), generator)
            return augment(image, [subject], [], True, self._augmenting, self._preprocess, generator, rendered=True)
        photos = self._by_source[name]
        photo = photos[generator.integers(len(photos))]
        subjects, ignored = boxes_of(photo, self._data.other_boxes)
        image = self._decoded[photo.path]
        return augment(image, subjects, ignored, photo.rectangular, self._augmenting, self._preprocess, generator)


def boxes_of(photo: Photo, other_boxes: str) -> tuple[list[Box], list[Box]]:
    """Return the boxes to find and those that do not count."""
    if other_boxes == "positive":
        return [photo.subject, *photo.others], []
    return [photo.subject], list(photo.others) if other_boxes == "ignore" else []


class Stills(Dataset[Sample]):
    """Photos as the service sees them, unchanged, with their one subject."""

    def __init__(self, photos: Sequence[Photo], preprocess: Preprocess) -> None:
        self._photos, self._preprocess = photos, preprocess
        self._samples: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Sample:
        if index not in self._samples:
            photo = self._photos[index]
            image = Image.open(photo.path).convert("RGB")
            scale = np.array([self._preprocess.width_px / image.width, self._preprocess.height_px / image.height] * 2)
            box = (np.array([photo.subject]) * scale).astype(np.float32)
            self._samples[index] = Sample(self._preprocess.fit(image), box, np.zeros((0, 4), np.float32))
        return self._samples[index]


def collate(samples: Sequence[Sample]) -> Batch:
    """Return the samples as one batch."""
    pixels = torch.from_numpy(np.stack([sample.pixels for sample in samples]))
    subjects, present = _padded([sample.subjects for sample in samples])
    ignored, _ = _padded([sample.ignored for sample in samples])
    return Batch(pixels, Truth(subjects, present, ignored))


def _padded(boxes: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor]:
    most = max(1, *(len(rows) for rows in boxes))
    padded, present = torch.zeros(len(boxes), most, 4), torch.zeros(len(boxes), most, dtype=torch.bool)
    for row, found in enumerate(boxes):
        padded[row, : len(found)] = torch.from_numpy(found)
        present[row, : len(found)] = True
    return padded, present


def still_batches(stills: Stills, size: int, most: int | None = None) -> Iterator[Batch]:
    """Yield the stills, or the first `most` of them, in batches of `size`."""
    count = len(stills) if most is None else min(most, len(stills))
    for start in range(0, count, size):
        yield collate([stills[row] for row in range(start, min(start + size, count))])
