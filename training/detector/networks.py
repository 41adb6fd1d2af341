"""The networks that the subject detector can be, behind one face: losses, best boxes, weights to keep."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from training.detector.config import PICODET, DetectorConfig
from training.detector.fasterrcnn import FasterRcnnLearner
from training.detector.loss import Truth, detection_loss
from training.detector.network import frozen_parts, parameter_groups, predict, start_network
from training.detector.score import BestBox
from training.networks import Normalise
from training.picodet import PicoDet
from training.weights import write_half


class Learner(Protocol):
    """A network and how it learns."""

    network: nn.Module

    def train_mode(self) -> None:
        """Switch to training what is not frozen."""

    def losses(self, pixels: Tensor, truth: Truth) -> dict[str, Tensor]:
        """Return the weighted losses of `pixels` `(n, h, w, 3)` uint8."""

    def parameter_groups(self) -> list[dict[str, object]]:
        """Return the optimiser's groups; `scale` multiplies the learning rate."""

    def best_box(self, network: nn.Module) -> BestBox:
        """Return the function that finds the best box with `network`, of this kind."""

    def write(self, network: nn.Module, path: Path) -> None:
        """Write the weights of `network` as float16 safetensors."""


class PicoDetLearner:
    """PicoDet-S with one class."""

    def __init__(self, config: DetectorConfig, downloads_dir: Path, first_pixels: Iterable[Tensor]) -> None:
        self._config = config
        self._normalise = Normalise(config.preprocess)
        self.network = start_network(config, downloads_dir, (self._normalise(pixels) for pixels in first_pixels))
        for part in frozen_parts(self.network, config.optimiser.freeze_stages):
            part.requires_grad_(False)

    def train_mode(self) -> None:
        """See `Learner`; a frozen part keeps its normalisation's statistics, too."""
        self.network.train()
        for part in frozen_parts(self.network, self._config.optimiser.freeze_stages):
            part.eval()

    def losses(self, pixels: Tensor, truth: Truth) -> dict[str, Tensor]:
        """See `Learner`."""
        predictions = predict(self.network, self._normalise.to(pixels.device)(pixels))
        return detection_loss(predictions, Truth(*(part.to(pixels.device) for part in truth)), self._config.loss)

    def parameter_groups(self) -> list[dict[str, object]]:
        """See `Learner`."""
        return parameter_groups(self.network, self._config.optimiser.backbone_rate, self._config.optimiser.decay)

    def best_box(self, network: nn.Module) -> BestBox:
        """See `Learner`."""
        assert isinstance(network, PicoDet)
        network.eval()
        return lambda pixels: self._best_box(network, pixels)

    def _best_box(self, network: PicoDet, pixels: Tensor) -> tuple[Tensor, Tensor]:
        device = network.distance_bins.device
        found = predict(network, self._normalise.to(device)(pixels.to(device)))
        scores, rows = found.scores.max(dim=1)
        return found.boxes[torch.arange(len(rows)), rows], scores

    def write(self, network: nn.Module, path: Path) -> None:
        """See `Learner`."""
        write_half(network, path)


def make_learner(config: DetectorConfig, downloads_dir: Path, first_pixels: Iterable[Tensor]) -> Learner:
    """Return the learner of `config.network`; `first_pixels` `(n, h, w, 3)` uint8 are for its start."""
    if config.network != PICODET:
        return FasterRcnnLearner(config, downloads_dir)
    return PicoDetLearner(config, downloads_dir, first_pixels)
