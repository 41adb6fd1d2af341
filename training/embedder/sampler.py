"""Balanced class batches: which picture in which view is in a step's batch, as a pure function of seed and step."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lookalike.errors import SetupError
from training.embedder.pictures import Picture, by_class


class Sample(NamedTuple):
    """A picture of a batch."""

    position: int  # in the pictures trained on
    view: int
    set_name: str
    class_number: int  # in its set


class BatchSampler:
    """Draws for each set `classes` classes a batch and `images` pictures of each.

    Nothing is remembered from step to step, so a run that goes on after a kill draws what it would have drawn.
    """

    def __init__(
        self, pictures: Sequence[Picture], classes: Mapping[str, int], images: int, views: Mapping[str, int], seed: int
    ) -> None:
        """`views` is how many views there are of a set's pictures; 0 stands for a new one at each draw.

        Raises:
            SetupError: when a set has fewer classes than a batch takes of it.
        """
        self._images, self._views, self._seed = images, dict(views), seed
        self._wanted = dict(classes)
        # Shop pictures are few among photos and all that a search finds: each class always shows one.
        self._items = {i for i, picture in enumerate(pictures) if picture.role in ("iconic", "gallery")}
        self._positions: dict[str, list[list[int]]] = {}
        for name, count in classes.items():
            of_set = [position for position, picture in enumerate(pictures) if picture.set_name == name]
            groups = by_class([pictures[position] for position in of_set]).values()
            self._positions[name] = [[of_set[i] for i in group] for group in groups]
            if len(self._positions[name]) < count:
                raise SetupError(f"{name}: a batch takes {count} classes; there are {len(self._positions[name])}")

    @property
    def class_counts(self) -> dict[str, int]:
        """How many classes each set has."""
        return {name: len(groups) for name, groups in self._positions.items()}

    @property
    def batch_size(self) -> int:
        """How many pictures a batch holds."""
        return self._images * sum(self._wanted.values())

    def batch(self, step: int) -> list[Sample]:
        """Return the batch of a step: set by set, class by class."""
        dice = np.random.default_rng([self._seed, step])
        samples = []
        for name, count in self._wanted.items():
            for number in dice.choice(len(self._positions[name]), count, replace=False):
                group = self._positions[name][number]
                drawn = self._drawn(dice, group)
                views = self._drawn_views(dice, self._views[name], distinct=len(group) < self._images)
                samples += [
                    Sample(position, view, name, int(number)) for position, view in zip(drawn, views, strict=True)
                ]
        return samples

    def _drawn(self, dice: np.random.Generator, group: list[int]) -> list[int]:
        # A class with fewer pictures than wanted shows some of them in more than one view.
        chosen = dice.choice(group, self._images, replace=len(group) < self._images)
        items = self._items.intersection(group)
        if items and not items.intersection(chosen.tolist()):
            chosen[0] = dice.choice(sorted(items))
        return [int(position) for position in chosen]

    def _drawn_views(self, dice: np.random.Generator, views: int, distinct: bool) -> Sequence[int]:
        if not views:
            return dice.integers(1, 2**31, self._images).tolist()
        if distinct and views >= self._images:
            return dice.choice(views, self._images, replace=False).tolist()
        return dice.integers(views, size=self._images).tolist()


def share_of_rank(samples: Sequence[Sample], rank: int, ranks: int) -> list[Sample]:
    """Return the part of a batch that one of several processes embeds.

    Raises:
        SetupError: when the batch does not divide evenly.
    """
    if len(samples) % ranks:
        raise SetupError(f"a batch of {len(samples)} pictures does not divide among {ranks} processes")
    size = len(samples) // ranks
    return list(samples[rank * size : (rank + 1) * size])
