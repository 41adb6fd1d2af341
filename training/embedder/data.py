"""The data of a run: every source read, checked, split by class, and shown as pixels or as cached maps."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.embedder.cache import PLAIN, MapCache, Seen, Trunk
from training.embedder.config import DataSource, EmbedderConfig
from training.embedder.pictures import (
    Holdout,
    Picture,
    check_classes,
    held_out,
    read_instances,
    read_retrieval,
    readable,
)
from training.embedder.sampler import BatchSampler, Sample, share_of_rank
from training.embedder.stanford_online_products import read_products
from training.embedder.views import ViewMaker

_log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """What one process embeds in a step."""

    inputs: Tensor  # (n, h, w, 3) uint8 pixels, or (n, ...) float16 maps of the trunk
    samples: list[Sample]
    untouched: Tensor | None = None  # (n, feature_dim) float16 features of the untrained network, where they are kept


class TrainingData:
    """The pictures of all sources: those trained on, and those of held-out classes."""

    def __init__(self, config: EmbedderConfig, data_dir: Path) -> None:
        """Raises SetupError, naming file and line, for what is missing or wrong."""
        self.config = config
        self.train: list[Picture] = []
        self.validation: list[Picture] = []
        self.pictures: dict[str, list[Picture]] = {}
        for source in config.data:
            pictures, parts = _source(source, config, data_dir)
            self.pictures[source.name] = pictures
            self.train += parts.train
            self.validation += parts.validation
        folders = {source.backgrounds for source in config.data if source.backgrounds}
        self.backgrounds = [p for folder in sorted(folders) for p in read_instances(data_dir / folder, "backgrounds")]
        self.instances = frozenset(source.name for source in config.data if source.instance_views)
        self.views = ViewMaker(config.views, config.preprocess, config.seed, self.instances, self.backgrounds)
        self.sampler = BatchSampler(
            self.train,
            {source.name: source.classes_in_batch for source in config.data},
            config.images_a_class,
            {source.name: source.views(config.views.cached) for source in config.data},
            config.seed,
        )

    @property
    def views_key(self) -> str:
        """What decides how a view looks."""
        shown = [self.config.views.model_dump(exclude={"cached"}), self.config.preprocess.model_dump()]
        return json.dumps([self.config.seed, *shown, sorted(self.instances), [p.path.name for p in self.backgrounds]])


def _source(source: DataSource, config: EmbedderConfig, data_dir: Path) -> tuple[list[Picture], Holdout]:
    folder = data_dir / source.folder
    if source.kind == "retrieval":
        listed = read_retrieval(folder, source.name)
    elif source.kind == "stanford-online-products":
        listed = read_products(folder, "train", source.name)
    else:
        listed = read_instances(folder, source.name, source.pattern)
    pictures, wrong = readable(listed, config.bad_images)
    for message in wrong:
        _log.warning("left out: %s", message)
    if source.kind != "instances":
        check_classes(pictures, 2)
    share = config.validation.share if source.validation_share is None else source.validation_share
    return pictures, held_out(pictures, share, config.seed)


class PixelBatches(Dataset[Batch]):
    """The batches of one process, from the pictures themselves."""

    def __init__(self, data: TrainingData, first_step: int, rank: int = 0, ranks: int = 1) -> None:
        self._data, self._first, self._rank, self._ranks = data, first_step, rank, ranks

    def __len__(self) -> int:
        return self._data.config.optimisation.steps - self._first

    def __getitem__(self, index: int) -> Batch:
        if index >= len(self):
            raise IndexError(index)
        samples = share_of_rank(self._data.sampler.batch(self._first + index), self._rank, self._ranks)
        pixels = [self._data.views.view(self._data.train[sample.position], sample.view) for sample in samples]
        return Batch(torch.from_numpy(np.stack(pixels)), samples)


class MapBatches(PixelBatches):
    """The batches of one process, from cached maps of the trunk."""

    def __init__(self, data: TrainingData, cache: "CachedMaps", first_step: int, rank: int = 0, ranks: int = 1) -> None:
        super().__init__(data, first_step, rank, ranks)
        self._cache = cache

    def __getitem__(self, index: int) -> Batch:
        if index >= len(self):
            raise IndexError(index)
        samples = share_of_rank(self._data.sampler.batch(self._first + index), self._rank, self._ranks)
        shown = [(self._data.train[s.position], s.view) for s in samples]
        loss = self._data.config.loss
        kept = loss.keep_weight > 0 and loss.keep_of == "views"
        return Batch(self._cache.of(shown), samples, self._cache.features_of(shown) if kept else None)


class CachedMaps:
    """Every view of every picture as the untouched network sees it, found by picture."""

    def __init__(self, data: TrainingData, trunk: Trunk, folder: Path) -> None:
        cache = MapCache(folder, trunk, data.views, data.views_key)
        self._seen = {
            source.name: [
                cache.seen(source.name, data.pictures[source.name], view)
                for view in range(source.views(data.config.views.cached))
            ]
            for source in data.config.data
        }
        self._rows = {
            (picture.set_name, picture.path): row
            for pictures in data.pictures.values()
            for row, picture in enumerate(pictures)
        }

    def of(self, shown: Sequence[tuple[Picture, int]]) -> Tensor:
        """Return the maps `(n, ...)` float16 of pictures, each in the view of its number."""
        return torch.from_numpy(np.stack([self._of(*one).maps[self._row(one[0])] for one in shown]))

    def features_of(self, shown: Sequence[tuple[Picture, int]]) -> Tensor:
        """Return the untouched features `(n, feature_dim)` float16 of pictures, each in the view of its number."""
        return torch.from_numpy(np.stack([self._of(*one).features[self._row(one[0])] for one in shown]))

    def plain_features(self, pictures: Sequence[Picture]) -> Tensor:
        """Return the untouched features of pictures as the service sees them."""
        return self.features_of([(picture, PLAIN) for picture in pictures])

    def _of(self, picture: Picture, view: int) -> Seen:
        return self._seen[picture.set_name][view]

    def _row(self, picture: Picture) -> int:
        return self._rows[picture.set_name, picture.path]


def batch_loader(batches: PixelBatches, workers: int) -> DataLoader[Batch]:
    """Return the batches in order; the next ones are read ahead where there are workers."""
    return DataLoader(batches, batch_size=None, num_workers=workers, shuffle=False)
