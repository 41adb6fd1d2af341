"""The untrained network's features, whose similarities training keeps."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from training.embedder.cache import Trunk, UntouchedNetwork
from training.embedder.config import EmbedderConfig
from training.embedder.data import Batch, CachedMaps, TrainingData
from training.embedder.network import TailedEmbedder

_BATCH = 64


class KeptFeatures:
    """Those of the views of a batch, or of the pictures that the views are of, as `loss.keep_of` says."""

    def __init__(
        self,
        config: EmbedderConfig,
        data: TrainingData,
        network: TailedEmbedder,
        device: torch.device,
        cache: CachedMaps | None,
    ) -> None:
        """Copy `network` before it is trained; the features of the pictures are made here, once."""
        self._device = device
        self._pictures: Tensor | None = None
        self._network: UntouchedNetwork | None = None
        if config.loss.keep_of == "views":
            if cache is None:
                self._network = UntouchedNetwork(network, config.preprocess).eval().to(device)
        elif cache is not None:
            self._pictures = cache.plain_features(data.train).float().to(device)
        else:
            self._pictures = _plain_features(config, data, network, device)

    @torch.no_grad()
    def of(self, batch: Batch, inputs: Tensor) -> Tensor:
        """Return `(n, feature_dim)` float32 for a batch and its inputs on the device."""
        if self._pictures is not None:
            return self._pictures[[sample.position for sample in batch.samples]]
        if self._network is not None:
            features: Tensor = self._network(inputs)[1]
            return features.float()
        assert batch.untouched is not None  # a cache gives them
        return batch.untouched.to(self._device).float()


def _plain_features(
    config: EmbedderConfig, data: TrainingData, network: TailedEmbedder, device: torch.device
) -> Tensor:
    trunk, parts = Trunk(network, config.preprocess, device, torch.get_num_threads()), []
    with ThreadPoolExecutor() as pool:  # decoding and resizing leave the interpreter's lock
        for start in range(0, len(data.train), _BATCH):
            pixels = np.stack(list(pool.map(data.views.plain, data.train[start : start + _BATCH])))
            parts.append(torch.from_numpy(trunk.run(pixels).features).float())
    return torch.cat(parts).to(device)
