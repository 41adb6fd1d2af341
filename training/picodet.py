"""PicoDet-S as a trainable torch module, and its weights from the Paddle checkpoint that PaddleLabel ships.

"PP-PicoDet: A Better Real-Time Object Detector on Mobile Devices", https://arxiv.org/abs/2111.00902: an LCNet backbone,
a neck that fuses scales top-down and bottom-up (CSP-PAN without the CSP part), and an anchor-free head that predicts
the distance of each side as a distribution ("Generalized Focal Loss", https://arxiv.org/abs/2006.04388).
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

STRIDES = (8, 16, 32, 64)
DISTANCE_BINS = 8

# Kernel, output channels, stride and squeeze-excitation of each depthwise-separable block (LCNet, width 0.75).
_STEM_CHANNELS = 16
_STAGES = (
    ((3, 24, 1, False), (3, 48, 2, False), (3, 48, 1, False), (3, 96, 2, False), (3, 96, 1, False)),  # to stride 8
    ((3, 192, 2, False), *[(5, 192, 1, False)] * 5),  # to stride 16
    ((5, 384, 2, True), (5, 384, 1, True)),  # to stride 32
)


class ConvNorm(nn.Sequential):
    """Convolution, batch normalisation, hard swish."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = nn.Hardswish()


class SqueezeExcitation(nn.Module):
    """Channel attention with a bottleneck of a quarter of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with each channel weighted."""
        gate = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(gate)


class SeparableConv(nn.Sequential):
    """A depthwise convolution, optional channel attention, a pointwise convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, attention: bool = False) -> None:
        super().__init__()
        self.depthwise = ConvNorm(inputs, inputs, kernel, stride, groups=inputs)
        if attention:
            self.attention = SqueezeExcitation(inputs)
        self.pointwise = ConvNorm(inputs, outputs, 1)


class LCNet(nn.Module):
    """The backbone: features at strides 8, 16 and 32 with 96, 192 and 384 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, _STEM_CHANNELS, 3, stride=2)
        self.stages = nn.ModuleList()
        channels = _STEM_CHANNELS
        for stage in _STAGES:
            blocks = []
            for kernel, outputs, stride, attention in stage:
                blocks.append(SeparableConv(channels, outputs, kernel, stride, attention))
                channels = outputs
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the three levels of `(n, 3, h, w)` float32 images, the finest first."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Fuse(nn.Sequential):
    """Two separable convolutions that bring two concatenated levels back to the neck's width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = SeparableConv(2 * channels, 2 * channels, 5)
        self.narrow = SeparableConv(2 * channels, channels, 5)


class BottomUp(nn.Module):
    """One step from a fine level to the next coarser one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shrink = SeparableConv(channels, channels, 5, stride=2)
        self.fuse = Fuse(channels)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Return the coarse level with what the fine one adds."""
        fused: Tensor = self.fuse(torch.cat([self.shrink(fine), coarse], dim=1))
        return fused


class Neck(nn.Module):
    """Fuses three backbone levels top-down and bottom-up and adds a fourth; every level has `channels` channels."""

    def __init__(self, inputs: Sequence[int] = (96, 192, 384), channels: int = 96) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(ConvNorm(count, channels, 1) for count in inputs)
        self.extra_from_input = SeparableConv(channels, channels, 5, stride=2)
        self.extra_from_output = SeparableConv(channels, channels, 5, stride=2)
        self.top_down = nn.ModuleList(Fuse(channels) for _ in inputs[1:])  # the coarse step first
        self.bottom_up = nn.ModuleList(BottomUp(channels) for _ in inputs[1:])  # the fine step first

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return four levels, at strides 8, 16, 32 and 64, of the backbone's three."""
        fine, middle, coarse = (reduce(feature) for reduce, feature in zip(self.reduce, features, strict=True))
        middle = self._down(0, coarse, middle)
        fine = self._down(1, middle, fine)
        levels = [fine]
        for step, level in zip(self.bottom_up, (middle, coarse), strict=True):
            levels.append(step(levels[-1], level))
        return [*levels, self.extra_from_input(coarse) + self.extra_from_output(levels[-1])]

    def _down(self, step: int, coarse: Tensor, fine: Tensor) -> Tensor:
        grown = F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        fused: Tensor = self.top_down[step](torch.cat([grown, fine], dim=1))
        return fused


class Tower(nn.Module):
    """What classes and boxes share at one level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = SeparableConv(channels, channels, 5)
        self.second = SeparableConv(channels, channels, 5)
        self.gate = nn.Conv2d(channels, channels, 1)
        self.project = ConvNorm(channels, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shared features, and those before the gate, from which the quality is predicted."""
        shared = self.second(self.first(x))
        gate = torch.sigmoid(self.gate(F.adaptive_avg_pool2d(shared, 1)))
        return self.project(shared * gate), shared


class Predictor(nn.Module):
    """Class scores and side distances at one level."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(channels, classes, 1)
        self.regress = nn.Conv2d(channels, 4 * DISTANCE_BINS, 1)
        self.quality_wide = ConvNorm(channels, 1, 5)
        self.quality_norm = nn.Sequential()
        self.quality_norm.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.quality_norm.norm = nn.BatchNorm2d(1)

    def forward(self, features: Tensor, ungated: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores `(n, classes, points)` and distance logits `(n, points, 4, bins)`."""
        quality = torch.sigmoid(self.quality_norm(self.quality_wide(ungated)))
        scores = (torch.sigmoid(self.classify(features)) * quality + 1e-9).sqrt()
        logits = self.regress(features).flatten(2).transpose(1, 2)
        return scores.flatten(2), logits.unflatten(2, (4, DISTANCE_BINS))


class PicoDet(nn.Module):
    """The detector for square or oblong inputs whose sides are multiples of 32."""

    distance_bins: Tensor

    def __init__(self, classes: int = 80, channels: int = 96) -> None:
        super().__init__()
        self.backbone = LCNet()
        self.neck = Neck(channels=channels)
        self.towers = nn.ModuleList(Tower(channels) for _ in STRIDES)
        self.predictors = nn.ModuleList(Predictor(channels, classes) for _ in STRIDES)
        self.register_buffer("distance_bins", torch.arange(DISTANCE_BINS, dtype=torch.float32))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes `(n, points, 4)` float32 xyxy in input pixels and scores `(n, classes, points)` in [0, 1].

        `images` is `(n, 3, h, w)` float32, normalised; `h` and `w` are multiples of 32.
        """
        boxes, scores = [], []
        levels = self.neck(self.backbone(images))
        for level, stride, tower, predictor in zip(levels, STRIDES, self.towers, self.predictors, strict=True):
            level_scores, logits = predictor(*tower(level))
            distances = (logits.softmax(-1) * self.distance_bins).sum(-1) * stride
            centres = point_centres(level.shape[2], level.shape[3], stride).to(images)
            boxes.append(torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], dim=-1))
            scores.append(level_scores)
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=2)


def point_centres(rows: int, columns: int, stride: int) -> Tensor:
    """Return the centres `(rows * columns, 2)` of a level's cells as x, y in input pixels, row by row."""
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1) * stride


def picodet_state_from_paddle(tensors: Mapping[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """Rename a Paddle checkpoint's tensors to those of `PicoDet`.

    Paddle numbers layers in the order in which they were made, and `PicoDet` makes them in the same order.

    Raises:
        ValueError: when a tensor is missing, left over or of another shape.
    """
    model = PicoDet()
    state: dict[str, Tensor] = {"distance_bins": _distance_bins(tensors)}
    _take_layers(model, nn.Conv2d, "conv2d", {"w_0": "weight", "b_0": "bias"}, tensors, state)
    norms = {"w_0": "weight", "b_0": "bias", "w_1": "running_mean", "w_2": "running_var"}
    _take_layers(model, nn.BatchNorm2d, "batch_norm2d", norms, tensors, state)
    wanted = {name: value.shape for name, value in model.state_dict().items() if "num_batches" not in name}
    found = {name: value.shape for name, value in state.items()}
    if wanted != found:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise ValueError(f"the checkpoint is not this PicoDet: {', '.join(wrong[:5])} differ")
    return state


def _take_layers(
    model: nn.Module,
    kind: type[nn.Module],
    paddle_kind: str,
    leaves: Mapping[str, str],
    tensors: Mapping[str, NDArray[np.generic]],
    state: dict[str, Tensor],
) -> None:
    layers = [name for name, module in model.named_modules() if isinstance(module, kind)]
    numbers = sorted({int(found[1]) for name in tensors if (found := re.match(rf"{paddle_kind}_(\d+)\.", name))})
    for layer, number in zip(layers, numbers, strict=True):
        for paddle_leaf, leaf in leaves.items():
            tensor = tensors.get(f"{paddle_kind}_{number}.{paddle_leaf}")
            if tensor is not None:
                state[f"{layer}.{leaf}"] = torch.from_numpy(tensor.copy())


def _distance_bins(tensors: Mapping[str, NDArray[np.generic]]) -> Tensor:
    """Return the checkpoint's own bins: they differ from 0..7 by rounding, and the network was trained with them."""
    (bins,) = (tensor for tensor in tensors.values() if tensor.shape == (DISTANCE_BINS,))
    return torch.from_numpy(bins.copy())
