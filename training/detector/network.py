"""The subject detector as it is trained: PicoDet-S with one class, started from the 80 classes of COCO."""

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from training.detector.config import DetectorConfig, StartWeights
from training.detector.loss import Predictions
from training.fetch_weights import fetch_pretrained
from training.picodet import STRIDES, PicoDet, point_centres
from training.weights import load_weights

LABELS = ("subject",)
_RIDGE = 1e-2  # of the mean feature power: keeps the fit stable where channels repeat each other

_log = logging.getLogger(__name__)


def predict(network: PicoDet, images: Tensor) -> Predictions:
    """Return what `network` says of `images` `(n, 3, h, w)` float32, normalised, of its first class."""
    scores, logits, centres, strides = [], [], [], []
    levels = network.neck(network.backbone(images))
    for level, stride, tower, predictor in zip(levels, STRIDES, network.towers, network.predictors, strict=True):
        level_scores, level_logits = predictor(*tower(level))
        scores.append(level_scores[:, 0])
        logits.append(level_logits)
        points = point_centres(level.shape[2], level.shape[3], stride).to(images)
        centres.append(points)
        strides.append(points.new_full((len(points),), stride))
    all_logits, all_centres, all_strides = torch.cat(logits, 1), torch.cat(centres), torch.cat(strides)
    distances = (all_logits.float().softmax(-1) * network.distance_bins).sum(-1) * all_strides[:, None]
    boxes = torch.cat([all_centres - distances[..., :2], all_centres + distances[..., 2:]], dim=-1)
    return Predictions(torch.cat(scores, 1), all_logits, boxes, all_centres, all_strides)


def coco_weights(start: StartWeights, downloads_dir: Path) -> Path | None:
    """Return the file of the 80-class weights, downloaded where it is not there; None for a random start.

    Raises:
        SetupError: when the download fails, or a sha256 is not the configuration's.
    """
    if start.source is None:
        return None
    return fetch_pretrained("detector", "picodet_s", start.source, start.weights_sha256, downloads_dir)


@torch.no_grad()
def subject_network(coco: PicoDet, batches: Iterable[Tensor]) -> PicoDet:
    """Return a one-class network whose score repeats the best of `coco`'s classes as well as a linear map can.

    Averaging the rows of the class convolution would ask for all classes at once, and score every point near zero. A
    ridge regression of the best class's logit on the same features starts where the 80 classes are.
    `batches` are `(n, 3, h, w)` float32, normalised.
    """
    network = PicoDet(classes=len(LABELS))
    state = {name: value for name, value in coco.state_dict().items() if ".classify." not in name}
    network.load_state_dict(state, strict=False)
    sums = [(0.0, 0.0)] * len(STRIDES)
    coco.eval()
    for images in batches:
        levels = coco.neck(coco.backbone(images))
        for row, (level, tower, predictor) in enumerate(zip(levels, coco.towers, coco.predictors, strict=True)):
            features = tower(level)[0]
            best = predictor.classify(features).amax(dim=1).flatten().double()
            inputs = features.permute(0, 2, 3, 1).flatten(0, 2).double()
            inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
            # Few points are objects: without a weight the fit would be one to the background.
            weighted = inputs * best.sigmoid().clamp(min=0.02)[:, None]
            sums[row] = (sums[row][0] + weighted.T @ inputs, sums[row][1] + weighted.T @ best)
    for predictor, (gram, moment) in zip(network.predictors, sums, strict=True):
        ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        solution = torch.linalg.solve(gram + ridge, moment).float()
        predictor.classify.weight.copy_(solution[:-1].view(1, -1, 1, 1))
        predictor.classify.bias.copy_(solution[-1:])
    return network


def start_network(config: DetectorConfig, downloads_dir: Path, batches: Iterable[Tensor]) -> PicoDet:
    """Return the network that training starts from; `batches` are looked at only for a start from COCO."""
    if config.start.weights is not None:
        return earlier_network(config.start.weights)
    path = coco_weights(config.start, downloads_dir)
    if path is None:
        return PicoDet(classes=len(LABELS))
    return subject_network(load_weights(PicoDet(), path, "detector of COCO's classes"), batches)


def earlier_network(weights: Path) -> PicoDet:
    """Return the one-class network with a run's weights.

    Raises:
        SetupError: when the file is missing, or does not fit.
    """
    return load_weights(PicoDet(classes=len(LABELS)), weights, "subject detector")


def frozen_parts(network: PicoDet, stages: int) -> list[nn.Module]:
    """Return the first `stages` parts of the backbone, the stem first."""
    return [network.backbone.stem, *network.backbone.stages][:stages]


def parameter_groups(network: PicoDet, backbone_rate: float, decay: float) -> list[dict[str, object]]:
    """Return AdamW's groups: the backbone at `backbone_rate`, no weight decay for biases and normalisations."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("backbone."), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "scale": backbone_rate if in_backbone else 1.0,
            "weight_decay": decay if is_matrix else 0.0,
        }
        for (in_backbone, is_matrix), parameters in groups.items()
    ]
