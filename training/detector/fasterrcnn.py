"""The other subject detectors: torchvision's Faster R-CNN at 320 px, on MobileNetV3-Large or on MobileNetV2.

"Faster R-CNN", https://arxiv.org/abs/1506.01497; "Searching for MobileNetV3", https://arxiv.org/abs/1905.02244;
"MobileNetV2", https://arxiv.org/abs/1801.04381. The COCO weights of the first are taken where torchvision's download
site is reachable, else its training starts from nothing; the second starts from ImageNet, from a Python package.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from training.detector.config import DetectorConfig, StartWeights
from training.detector.loss import Truth
from training.detector.score import BestBox
from training.fetch_weights import fetch_pretrained
from training.weights import load_weights, write_half

MOBILENET_V3, MOBILENET_V2 = "fasterrcnn_mobilenet_v3_320", "fasterrcnn_mobilenet_v2_320"
_BACKGROUND_AND_SUBJECT = 2
_STAGES = 6  # of either backbone that torchvision can freeze
# Of each photo, the head learns from so few proposals: torchvision's 512 are for many objects and take most of a step;
# a photo here has one subject.
_PROPOSALS = 64
_ANCHORS_PX = ((32, 64, 128, 256, 512),) * 3  # as torchvision's on MobileNetV3: one set a level
_ASPECT_RATIOS = ((0.5, 1.0, 2.0),) * len(_ANCHORS_PX)

_log = logging.getLogger(__name__)


def faster_rcnn(config: DetectorConfig, downloads_dir: Path) -> FasterRCNN:
    """Return the network with one class, from the best weights that can be had."""
    trainable = _STAGES - min(_STAGES, config.optimiser.freeze_stages)
    settings = {
        "min_size": config.input_px,
        "max_size": config.input_px,
        "box_batch_size_per_image": _PROPOSALS,
    }
    if config.network == MOBILENET_V2:
        return _on_mobilenet_v2(config.start, downloads_dir, trainable, settings)
    return _on_mobilenet_v3(config.start, trainable, settings)


def _on_mobilenet_v3(start: StartWeights, trainable: int, settings: Mapping[str, Any]) -> FasterRCNN:
    if start.hub:
        try:
            network = fasterrcnn_mobilenet_v3_large_320_fpn(
                weights="COCO_V1", trainable_backbone_layers=trainable, **settings
            )
        except (URLError, OSError) as error:
            _log.warning("torchvision's weights cannot be downloaded (%s): training starts from nothing", error)
        else:
            inputs = network.roi_heads.box_predictor.cls_score.in_features
            network.roi_heads.box_predictor = FastRCNNPredictor(inputs, _BACKGROUND_AND_SUBJECT)
            return network
    return fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=_BACKGROUND_AND_SUBJECT, **settings
    )


def _on_mobilenet_v2(
    start: StartWeights, downloads_dir: Path, trainable: int, settings: Mapping[str, Any]
) -> FasterRCNN:
    # What stays frozen is worth something only where weights were loaded; the same holds for frozen statistics.
    known = start.source is not None
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v2",
        weights=None,
        fpn=True,
        norm_layer=FrozenBatchNorm2d if known else nn.BatchNorm2d,
        trainable_layers=trainable if known else _STAGES,
    )
    if start.source is not None:
        path = fetch_pretrained("mobilenet_v2", "mobilenet_v2", start.source, start.weights_sha256, downloads_dir)
        load_weights(backbone.body, path, "mobilenet_v2")
    anchors = AnchorGenerator(_ANCHORS_PX, _ASPECT_RATIOS)
    return FasterRCNN(backbone, _BACKGROUND_AND_SUBJECT, rpn_anchor_generator=anchors, **settings)


def trained_faster_rcnn(weights: Path, config: DetectorConfig) -> FasterRCNN:
    """Return the network with a run's weights.

    Raises:
        SetupError: when the file is missing, or does not fit.
    """
    nothing = config.model_copy(update={"start": StartWeights(hub=False)})
    return load_weights(faster_rcnn(nothing, Path()), weights, config.network)


class FasterRcnnCandidates(nn.Module):
    """The network as `DetectorNetwork` speaks: `(n, h, w, 3)` uint8 pixels -> boxes, scores, labels by name."""

    def __init__(self, network: FasterRCNN) -> None:
        super().__init__()
        self._network = network

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `boxes` `(n, a, 4)` and `scores` `(n, a)` float32, `labels` `(n, a)` int64, all 0; empty boxes pad."""
        found = self._network(list(_images(pixels)))
        boxes = nn.utils.rnn.pad_sequence([one["boxes"] for one in found], batch_first=True)
        scores = nn.utils.rnn.pad_sequence([one["scores"] for one in found], batch_first=True)
        return {"boxes": boxes, "scores": scores, "labels": torch.zeros(scores.shape, dtype=torch.int64)}


class FasterRcnnLearner:
    """Faster R-CNN as `training.detector.networks.Learner`; boxes to ignore are background to it."""

    def __init__(self, config: DetectorConfig, downloads_dir: Path) -> None:
        self._config = config
        self.network: nn.Module = faster_rcnn(config, downloads_dir)

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
