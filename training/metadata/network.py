"""The network behind the metadata heads: EfficientNet-Lite at half the embedder's resolution, linear heads on it."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookalike.errors import SetupError
from lookalike.preprocessing import Preprocess
from training.efficientnet_lite import WIDTH, efficientnet_lite
from training.networks import Normalise

NETWORK_FILE = "network.safetensors"  # of a run, and in model_store
CHECKPOINT, REPORT = "checkpoint.pt", "report.json"  # of a run
_LIGHTNESS_BINS, _OPPONENT_BINS = 8, 10
_GROUND_WEIGHT = 0.1
COLOURS = _LIGHTNESS_BINS * _OPPONENT_BINS**2
FEATURES = WIDTH + COLOURS  # pooled features, then shares of colours
HALF = 2  # a side of the squares of the embedder's pixels that become one
_FIRST_PARTS = ("conv_stem", "bn1")


class MetadataNetwork(nn.Module):
    """Backbone, dropout, a linear head an attribute: `(n, h, w, 3)` uint8, already halved -> logits by attribute."""

    def __init__(
        self,
        preprocess: Preprocess,
        label_counts: Mapping[str, int],
        dropout: float = 0.0,
        backbone: str = "efficientnet_lite0",
    ) -> None:
        super().__init__()
        self.normalise = Normalise(preprocess)
        self.backbone = efficientnet_lite(backbone)
        self.dropout = nn.Dropout(dropout)
        width = int(self.backbone.num_features)  # type: ignore[arg-type]
        self.heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in label_counts.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """See the class."""
        features = self.dropout(self.backbone(self.normalise(pixels)))
        return {name: head(features) for name, head in self.heads.items()}

    def frozen_parts(self, trained: str) -> list[nn.Module]:
        """Return what stays as it is when training starts at `trained`: `all`, `heads`, or `blocks.<stage>`.

        Raises:
            SetupError: for another name.
        """
        stages = list(self.backbone.blocks)  # type: ignore[arg-type]
        names = [f"blocks.{number}" for number in range(len(stages))]
        if trained == "all":
            return []
        if trained == "heads":
            return [self.backbone]
        if trained not in names:
            raise SetupError(f"network.trained: no part {trained!r}", allowed=["all", "heads", *names])
        first = [self.backbone.get_submodule(name) for name in _FIRST_PARTS]
        return [*first, *stages[: names.index(trained)]]


class ColourShares(nn.Module):
    """How much of a picture has which colour: `(n, 3, h, w)` float32 RGB in [0, 1] -> `(n, COLOURS)` float32.

    The square roots of the shares (Hellinger's distance is then Euclid's) over soft bins of lightness, red against
    green and yellow against blue, finer near grey. Near-white pixels, a shop's ground, weigh a tenth.
    """

    def forward(self, rgb: Tensor) -> Tensor:
        """See the class."""
        red, green, blue = rgb.flatten(2).unbind(1)
        lightness = _memberships((red + green + blue) / 3, _LIGHTNESS_BINS)
        red_green = _memberships(0.5 + 0.5 * _stretched(red - green), _OPPONENT_BINS)
        yellow_blue = _memberships(0.5 + 0.5 * _stretched((red + green) / 2 - blue), _OPPONENT_BINS)
        darkest = torch.minimum(torch.minimum(red, green), blue)
        weight = 1 - (1 - _GROUND_WEIGHT) * ((darkest - 0.85) / 0.1).clamp(0, 1)
        pairs = (lightness[..., None] * red_green[..., None, :]).flatten(2) * weight[..., None]
        counts = (pairs.transpose(1, 2) @ yellow_blue).flatten(1)
        return (counts / counts.sum(1, keepdim=True)).sqrt()


def _memberships(values: Tensor, bins: int) -> Tensor:
    """Return the soft bin memberships `(n, p, bins)` of `values` `(n, p)` in [0, 1]; those of a value sum to 1."""
    return F.relu(1 - (values[..., None] * (bins - 1) - torch.arange(bins)).abs())


def _stretched(values: Tensor) -> Tensor:
    return values.sign() * values.abs().sqrt()


class HalvedBackbone(nn.Module):
    """The trained backbone as it is exported: it takes the embedder's pixels and averages squares of four into one.

    A crop is thus resized once for both networks, and this one costs a quarter of the embedder's multiplications.
    Beside the pooled features stand the shares of colours, to which a network that was made to name things is half
    blind.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std).view(3, 1, 1))
        self.backbone, self.colours = backbone, ColourShares()

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `features` `(n, FEATURES)` float32 of `(n, h, w, 3)` uint8; `embedding` is their direction."""
        rgb = F.avg_pool2d(pixels.permute(0, 3, 1, 2).float() / 255, HALF)
        pooled = self.backbone((rgb - self.mean) / self.std)
        features = torch.cat([pooled, self.colours(F.avg_pool2d(rgb, 2 * HALF))], dim=1)
        return {"embedding": F.normalize(features, dim=1), "features": features}


def halved(pixels: Tensor) -> Tensor:
    """Return `(n, h, w, 3)` uint8 pixels averaged in squares of four, `(n, h / 2, w / 2, 3)` uint8."""
    small = F.avg_pool2d(pixels.permute(0, 3, 1, 2).float(), HALF)
    return small.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
