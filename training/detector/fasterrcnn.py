"""The other subject detector: torchvision's Faster R-CNN on MobileNetV3-Large, 320 px.

"Faster R-CNN", https://arxiv.org/abs/1506.01497; "Searching for MobileNetV3", https://arxiv.org/abs/1905.02244. Its
COCO weights are taken where torchvision's download site is reachable; else training starts from nothing.
"""

import logging
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

from training.detector.config import DetectorConfig
from training.detector.loss import Truth
from training.detector.score import BestBox
from training.half_weights import write_half

_BACKGROUND_AND_SUBJECT = 2
_STAGES = 6  # of the backbone that torchvision can freeze

_log = logging.getLogger(__name__)


def faster_rcnn(config: DetectorConfig) -> FasterRCNN:
    """Return the network with one class, from COCO where the weights can be had."""
    size = {"min_size": config.input_px, "max_size": config.input_px}
    trainable = _STAGES - min(_STAGES, config.optimiser.freeze_stages)
    if config.start.hub:
        try:
            network = fasterrcnn_mobilenet_v3_large_320_fpn(
                weights="COCO_V1", trainable_backbone_layers=trainable, **size
            )
        except (URLError, OSError) as error:
            _log.warning("torchvision's weights cannot be downloaded (%s): training starts from nothing", error)
        else:
            inputs = network.roi_heads.box_predictor.cls_score.in_features
            network.roi_heads.box_predictor = FastRCNNPredictor(inputs, _BACKGROUND_AND_SUBJECT)
            return network
    return fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=_BACKGROUND_AND_SUBJECT, **size
    )


class FasterRcnnLearner:
    """Faster R-CNN as `training.detector.networks.Learner`; boxes to ignore are background to it."""

    def __init__(self, config: DetectorConfig) -> None:
        self._config = config
        self.network: nn.Module = faster_rcnn(config)

    def train_mode(self) -> None:
        """See `Learner`."""
        self.network.train()

    def losses(self, pixels: Tensor, truth: Truth) -> dict[str, Tensor]:
        """See `Learner`."""
        targets = [
            {
                "boxes": boxes[here].to(pixels.device),
                "labels": torch.ones(int(here.sum()), dtype=torch.int64).to(pixels.device),
            }
            for boxes, here in zip(truth.subjects, truth.present, strict=True)
        ]
        losses: dict[str, Tensor] = self.network(list(_images(pixels)), targets)
        return losses

    def parameter_groups(self) -> list[dict[str, object]]:
        """See `Learner`."""
        parts: dict[bool, list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                parts.setdefault(name.startswith("backbone.body"), []).append(parameter)
        settings = self._config.optimiser
        return [
            {"params": found, "scale": settings.backbone_rate if body else 1.0, "weight_decay": settings.decay}
            for body, found in parts.items()
        ]

    def best_box(self, network: nn.Module) -> BestBox:
        """See `Learner`."""
        network.eval()
        return lambda pixels: _best_box(network, pixels)

    def write(self, network: nn.Module, path: Path) -> None:
        """See `Learner`."""
        write_half(network, path)


def _images(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2).float() / 255


def _best_box(network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    device = next(network.parameters()).device
    height, width = pixels.shape[1:3]
    boxes, scores = [], []
    for found in network(list(_images(pixels.to(device)))):
        whole = found["boxes"].new_tensor([[0, 0, width, height]])
        boxes.append(torch.cat([found["boxes"], whole])[0])
        scores.append(torch.cat([found["scores"], whole.new_zeros(1)])[0])
    return torch.stack(boxes), torch.stack(scores)
