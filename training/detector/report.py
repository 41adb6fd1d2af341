"""Serves a training run's weights in memory, through the very code that serves a built model."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lookalike.detection import Detector
from lookalike.preprocessing import Preprocess
from training.detector.config import PICODET, DetectorConfig
from training.detector.fasterrcnn import FasterRcnnCandidates, trained_faster_rcnn
from training.detector.network import LABELS, earlier_network
from training.networks import DetectorNetwork


class TorchSession:
    """A network run by torch on the CPU, as `lookalike.runtimes.Session` has it."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network.eval()

    @torch.inference_mode()
    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Return the network's outputs for `(n, h, w, 3)` uint8 pixels."""
        # Pixels that come from an image are read-only, which torch warns of.
        found = self._network(torch.from_numpy(np.array(batch)))
        return {name: value.numpy() for name, value in found.items()}


def subject_detector_network(weights: Path, preprocess: Preprocess) -> DetectorNetwork:
    """Return the one-class PicoDet-S with the tensors of a safetensors file, as it is exported.

    Raises:
        SetupError: when the file is missing, or does not fit.
    """
    return DetectorNetwork(earlier_network(weights), preprocess).eval()


def detector_from_weights(weights: Path, config: DetectorConfig) -> Detector:
    """Return the detector that the weights of a run of this configuration make.

    Raises:
        SetupError: when the file is missing, or does not fit.
    """
    network: torch.nn.Module
    if config.network == PICODET:
        network = subject_detector_network(weights, config.preprocess)
    else:
        network = FasterRcnnCandidates(trained_faster_rcnn(weights, config))
    return Detector(TorchSession(network), config.preprocess, LABELS)
