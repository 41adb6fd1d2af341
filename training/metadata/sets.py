"""The sets that heads and gate are fitted and measured on: rows of the data folder beside their features."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.metadata.config import TrainingConfig
from training.metadata.data import FolderImages, Row, ZipImages, read_rows
from training.metadata.features import FeatureSource, ImageSet, View, extract

Floats = NDArray[np.float32]
SPLITS = ("train", "val", "test")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelled:
    """Rows and their features `(n, feature_dim)` float32, unscaled, in the same order."""

    rows: list[Row]
    features: Floats

    def where(self, keep: Sequence[bool] | NDArray[np.bool_]) -> "Labelled":
        """Return the rows for which `keep` is true."""
        mask = np.asarray(keep, dtype=bool)
        return Labelled([row for row, kept in zip(self.rows, mask, strict=True) if kept], self.features[mask])


class Catalogue:
    """The labelled products: their rows, and their features in any view."""

    def __init__(self, config: TrainingConfig, data_dir: Path, source: FeatureSource, cache_dir: Path) -> None:
        """Read the manifest.

        Raises:
            SetupError: for a manifest or an archive that is missing or wrong.
        """
        self._manifest = data_dir / config.data.manifest
        self._images = ZipImages(data_dir / config.data.images)
        self._hires = ZipImages(data_dir / config.data.hires)
        self._source, self._cache_dir = source, cache_dir
        self._rows = read_rows(self._manifest, "id", config.columns, splits=SPLITS)

    def split(self, split: str, view: View = "plain") -> Labelled:
        """Return one split in one view; an image that cannot be read keeps a row of NaN, so that all views line up."""
        rows = [row for row in self._rows if row.split == split]
        images = ImageSet(split, self._images, [row.image for row in rows], view)
        return self._labelled(rows, images)

    def hires(self, split: str) -> Labelled:
        """Return those products of one split that exist in a higher resolution."""
        rows = [row for row in self._rows if row.split == split and self._hires.has(row.image)]
        return readable(self._labelled(rows, ImageSet(f"hires-{split}", self._hires, [row.image for row in rows])))

    def _labelled(self, rows: list[Row], images: ImageSet) -> Labelled:
        return labelled(self._manifest, rows, images, self._source, self._cache_dir)


def labelled(manifest: Path, rows: list[Row], images: ImageSet, source: FeatureSource, cache_dir: Path) -> Labelled:
    """Return the rows with their features, and name each image that cannot be read by its line."""
    features = extract(images, source, cache_dir)
    for row in rows:
        if row.image in features.bad and images.view == "plain":
            _log.warning("%s, line %d: image %r: %s", manifest, row.line, row.image, features.bad[row.image])
    return Labelled(rows, features.matrix)


def readable(given: Labelled) -> Labelled:
    """Return the rows whose image could be read."""
    return given.where(np.asarray(np.isfinite(given.features).all(axis=1)))


def user_photos(
    config: TrainingConfig, data_dir: Path, source: FeatureSource, cache_dir: Path
) -> tuple[Labelled, Labelled]:
    """Return the photos from private senders in two halves without a common sender: to fit on, and held out."""
    manifest = data_dir / config.data.user_photos
    rows = read_rows(manifest, "image", [*config.data.user_columns, "sender_id"])
    images = ImageSet("userphotos", ZipImages(data_dir / config.data.user_images), [row.image for row in rows])
    photos = readable(labelled(manifest, rows, images, source, cache_dir))
    first = [is_fitted_on(row) for row in photos.rows]
    return photos.where(first), photos.where([not side for side in first])


def is_fitted_on(photo: Row) -> bool:
    """Tell whether a user photo is of the half that is learned from, by its sender; the other half is held out."""
    return hashlib.sha256(photo.values["sender_id"].encode()).digest()[0] % 2 == 0


def other_pictures(
    config: TrainingConfig, data_dir: Path, source: FeatureSource, cache_dir: Path, split: str
) -> dict[str, Labelled]:
    """Return pictures of anything but fashion by their set, each as it is and, as `<set> small`, shrunk."""
    manifest = data_dir / config.data.other_manifest
    rows = [row for row in read_rows(manifest, "file", ["set", "class_id"]) if row.split == split]
    files = FolderImages(data_dir / config.data.other_images)
    sets: dict[str, Labelled] = {}
    for suffix, edge in (("", None), (" small", config.gate.small_edge_px)):
        images = ImageSet(f"other-{split}{suffix.replace(' ', '-')}", files, [row.image for row in rows], "plain", edge)
        pictures = readable(labelled(manifest, rows, images, source, cache_dir))
        pictures = pictures.where([row.values["class_id"] not in config.gate.known_classes for row in pictures.rows])
        for name in _distinct(row.values["set"] for row in pictures.rows):
            sets[name + suffix] = pictures.where([row.values["set"] == name for row in pictures.rows])
    return sets


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
