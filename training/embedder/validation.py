"""The figures of held-out classes: each set searched by itself, instances by strong views of themselves."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.embedder.data import CachedMaps, TrainingData
from training.embedder.network import TailedEmbedder
from training.embedder.pictures import Picture
from training.evaluate_embedder import RetrievalImage, RetrievalScores, score_sets

_BATCH = 64
Shown = tuple[Picture, int]  # a picture and the number of its view


class Validation:
    """The held-out pictures, shown once and kept."""

    def __init__(self, data: TrainingData, normalise: nn.Module, cache: CachedMaps | None = None) -> None:
        self._data, self._normalise, self._cache = data, normalise, cache
        self._shown, self.images = _searches(data)
        self._pixels: Tensor | None = None

    def __len__(self) -> int:
        return len(self._shown)

    def scores(self, network: TailedEmbedder, device: torch.device) -> dict[str, RetrievalScores]:
        """Return each set's scores, as `training.evaluate_embedder` takes them."""
        was_training = network.training
        network.eval()
        embeddings = self._embeddings(lambda inputs: self._embed(network, inputs.to(device)))
        network.train(was_training)
        return score_sets(self.images, embeddings)

    def _embeddings(self, embed: Callable[[Tensor], Tensor]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.concatenate([embed(chunk).float().cpu().numpy() for chunk in self._inputs()])

    def _embed(self, network: TailedEmbedder, inputs: Tensor) -> Tensor:
        if self._cache is not None:
            return network.embed_map(inputs.float())
        return network(self._normalise(inputs))

    def _inputs(self) -> Iterator[Tensor]:
        """Yield what is shown, batch by batch: maps where they are kept, for they are large, else pixels."""
        if self._cache is None:
            yield from self.pixels().split(_BATCH)
            return
        for start in range(0, len(self._shown), _BATCH):
            yield self._cache.of(self._shown[start : start + _BATCH])

    def pixels(self) -> Tensor:
        """Return the pixels `(n, h, w, 3)` uint8 of all that is shown, in the order of `images`; made once."""
        if self._pixels is None:
            views = self._data.views
            with ThreadPoolExecutor() as pool:  # decoding and resizing leave the interpreter's lock
                plain = pool.map(views.plain, [picture for picture, view in self._shown if not view])
                # Views draw from torch's generator, which threads would share.
                pixels = [views.view(picture, view) if view else next(plain) for picture, view in self._shown]
            self._pixels = torch.from_numpy(np.stack(pixels))
        return self._pixels


def _searches(data: TrainingData) -> tuple[list[Shown], list[RetrievalImage]]:
    shown: list[Shown] = []
    images = []
    queries = data.config.validation.instance_queries
    single = {source.name for source in data.config.data if source.kind == "instances"}
    for picture in data.validation:
        views = range(queries + 1) if picture.set_name in single else range(1)
        for view in views:
            role = picture.role if picture.set_name not in single else ("query" if view else "gallery")
            shown.append((picture, view))
            images.append(RetrievalImage(Path(picture.path), picture.set_name, role, picture.class_id, ""))
    return shown, images


def figures(scores: dict[str, RetrievalScores]) -> dict[str, float]:
    """Return the scores by name, and `validation/recall_at_1`: the mean of the sets, which stops a run."""
    named = {f"validation/{name}/recall_at_1": score.recall_at_1 for name, score in scores.items()}
    named |= {f"validation/{name}/map_at_r": score.mean_average_precision_at_r for name, score in scores.items()}
    named["validation/recall_at_1"] = float(np.mean([score.recall_at_1 for score in scores.values()]))
    return named
