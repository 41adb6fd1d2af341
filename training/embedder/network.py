"""The embedder as it is trained and exported: a trunk that stays as it is, a tail, a pooling and a projection.

A partly trained embedder may carry a copy of the untouched tail, whose pooled output are its `features`: what was
fitted on the untrained backbone keeps its meaning. Without that copy its features are those of the trained tail.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookalike.errors import SetupError
from lookalike.preprocessing import Preprocess
from training.efficientnet_lite import efficientnet_lite
from training.networks import Normalise
from training.weights import with_weights

Pooling = Literal["avg", "gem", "cls"]


class TokenMap(nn.Module):
    """The last feature map of any timm backbone as tokens: `(n, 3, h, w)` -> `(n, tokens, channels)`."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        return as_tokens(self.backbone.forward_features(pixels), self.backbone.num_features)


class AsTokens(nn.Module):
    """A feature map of `channels` channels, whatever their place, as `(n, tokens, channels)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        return as_tokens(features, self.channels)


def as_tokens(features: Tensor, channels: int) -> Tensor:
    """Return `(n, tokens, channels)` of `(n, channels, h, w)`, `(n, h, w, channels)` or tokens."""
    if features.ndim == 3:
        return features
    # Swin and its like put channels last, convolutions first.
    return features.flatten(1, 2) if features.shape[-1] == channels else features.flatten(2).transpose(1, 2)


class Pool(nn.Module):
    """Tokens `(n, t, c)` -> `(n, c)`: their mean, their generalised mean (GeM), or the class token.

    GeM is the p-th root of the mean of the p-th powers, p learned ("Fine-tuning CNN Image Retrieval with No Human
    Annotation", https://arxiv.org/abs/1711.02512).
    """

    def __init__(self, pooling: Pooling, prefix_tokens: int = 0, power: float = 3.0) -> None:
        super().__init__()
        if pooling == "cls" and not prefix_tokens:
            raise SetupError("pooling 'cls' needs a backbone with a class token", allowed=["avg", "gem"])
        self.pooling, self.prefix_tokens = pooling, prefix_tokens
        self.power = nn.Parameter(torch.tensor(power)) if pooling == "gem" else None

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        if self.pooling == "cls":
            return tokens[:, 0]
        tokens = tokens[:, self.prefix_tokens :]
        if self.power is None:
            return tokens.mean(dim=1)
        return tokens.clamp(min=1e-6).pow(self.power).mean(dim=1).pow(1 / self.power)


class TailedEmbedder(nn.Module):
    """`trunk` -> `tail` -> `pool` -> `projection` is the embedding, `trunk` -> `plain_tail` -> mean the features."""

    def __init__(
        self, trunk: nn.Module, plain_tail: nn.Module | None, tail: nn.Module, pool: Pool, projection: nn.Module
    ) -> None:
        super().__init__()
        self.trunk, self.plain_tail, self.tail = trunk, plain_tail, tail
        self.pool, self.projection = pool, projection
        self.plain_pool = Pool("cls" if pool.pooling == "cls" else "avg", pool.prefix_tokens)

    @property
    def untouched_parts(self) -> list[nn.Module]:
        """What is not trained, unless everything is."""
        return [self.trunk] if self.plain_tail is None else [self.trunk, self.plain_tail]

    @property
    def feature_dim(self) -> int:
        """The width of the pooled features."""
        return int(self.projection[-1].in_features)  # type: ignore[index]

    @property
    def dim(self) -> int:
        """The width of the embedding."""
        return int(self.projection[-1].out_features)  # type: ignore[index]

    def embed_map(self, features: Tensor) -> Tensor:
        """Return `(n, dim)`, L2-normalised, of the trunk's output."""
        return F.normalize(self.projection(self.pool(self.tail(features))), dim=1)

    def plain_features(self, features: Tensor) -> Tensor:
        """Return the pooled features `(n, feature_dim)` of the trunk's output: untouched, where there is a copy."""
        if self.plain_tail is None:
            return self.pool(self.tail(features))
        return self.plain_pool(self.plain_tail(features))

    def both(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embedding `(n, dim)` and the features `(n, feature_dim)` of pixels as for `forward`."""
        features = self.trunk(pixels)
        pooled = self.pool(self.tail(features))
        embedding = F.normalize(self.projection(pooled), dim=1)
        return embedding, pooled if self.plain_tail is None else self.plain_features(features)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return `(n, dim)`, L2-normalised, of `(n, 3, h, w)` float32, normalised."""
        return self.embed_map(self.trunk(pixels))


class ExportedEmbedder(nn.Module):
    """The embedder with the normalisation inside, as `training.networks.export_network` writes it."""

    def __init__(self, network: TailedEmbedder, preprocess: Preprocess) -> None:
        super().__init__()
        self.normalise = Normalise(preprocess)
        self.network = network

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `embedding` `(n, dim)` and `features` `(n, feature_dim)` of `(n, h, w, 3)` uint8."""
        embedding, features = self.network.both(self.normalise(pixels))
        return {"embedding": embedding, "features": features}


def create_backbone(name: str, weights: str, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """Return a backbone without its classifier; `state` holds its tensors where `weights` is a file.

    Raises:
        SetupError: for a name that timm does not know, weights that do not fit or cannot be downloaded.
    """
    if name == "efficientnet_lite0" and weights != "pretrained":
        backbone = efficientnet_lite()
    elif name not in timm.list_models() and name != "efficientnet_lite0":
        near = sorted(timm.list_models(f"*{name.split('_')[0]}*"))[:20]
        raise SetupError(f"timm has no model {name!r}", allowed=near or "see timm.list_models()")
    else:
        backbone = _timm_model("tf_efficientnet_lite0" if name == "efficientnet_lite0" else name, weights)
    if state is not None:
        try:
            with_weights(backbone, state)
        except RuntimeError as error:
            raise SetupError(f"{weights} does not fit {name}: {error}") from error
    return backbone


def _timm_model(name: str, weights: str) -> nn.Module:
    try:
        model: nn.Module = timm.create_model(name, pretrained=weights == "pretrained", num_classes=0)
    except (OSError, RuntimeError) as error:
        raise SetupError(f"the weights of {name} cannot be downloaded ({error}); name a file instead") from error
    return model


def parts_of(backbone: nn.Module) -> dict[str, nn.Module]:
    """Return the parts that a backbone runs one after the other; nothing where it is not such a chain."""
    if hasattr(backbone, "conv_stem") and hasattr(backbone, "blocks"):  # EfficientNet and MobileNet
        names = ["conv_stem", "bn1", *_numbered(backbone, "blocks"), "conv_head", "bn2"]
    elif hasattr(backbone, "patch_embed") and hasattr(backbone, "stages"):  # TinyViT
        names = ["patch_embed", *_numbered(backbone, "stages")]
    elif hasattr(backbone, "patch_embed") and hasattr(backbone, "layers"):  # Swin
        names = ["patch_embed", *_numbered(backbone, "layers"), "norm"]
    else:
        return {}
    return {name: backbone.get_submodule(name) for name in names}


def _numbered(backbone: nn.Module, name: str) -> Iterator[str]:
    return (f"{name}.{number}" for number in range(len(backbone.get_submodule(name))))


def split_backbone(backbone: nn.Module, trained: str) -> tuple[nn.Module, nn.Module]:
    """Return what stays as it is and what is trained, which ends in tokens `(n, t, channels)`.

    Raises:
        SetupError: when `trained` names no part.
    """
    if trained == "all":
        return nn.Identity(), TokenMap(backbone)
    if trained == "projection":
        return TokenMap(backbone), nn.Identity()
    parts = parts_of(backbone)
    if trained not in parts:
        raise SetupError(f"network.trained: no part {trained!r}", allowed=["all", "projection", *parts])
    modules, cut = list(parts.values()), list(parts).index(trained)
    return nn.Sequential(*modules[:cut]), nn.Sequential(*modules[cut:], AsTokens(backbone.num_features))


def assemble(
    backbone: nn.Module, pooling: Pooling, dim: int, trained: str, dropout: float = 0.0, keeps_untouched: bool = True
) -> TailedEmbedder:
    """Return the embedder, with a copy of the untouched tail or not; what is not trained needs no gradient."""
    trunk, tail = split_backbone(backbone, trained)
    plain_tail: nn.Module | None = None
    if trained in ("all", "projection"):
        plain_tail = nn.Identity()
    elif keeps_untouched:
        plain_tail = copy.deepcopy(tail)
    projection = nn.Sequential(nn.Dropout(dropout), nn.Linear(backbone.num_features, dim))
    if trained == "all":
        # There is no untouched backbone left: features are the pooled output of the trained one.
        trunk, tail = tail, nn.Identity()
    pool = Pool(pooling, getattr(backbone, "num_prefix_tokens", 0))
    network = TailedEmbedder(trunk, plain_tail, tail, pool, projection)
    for part in network.untouched_parts:
        part.requires_grad_(trained == "all")
    return network


def load_tailed_embedder(
    preprocess: Preprocess, weights: Mapping[str, Tensor], backbone: str, trained: str, pooling: Pooling
) -> ExportedEmbedder:
    """Return a trained embedder from its tensors; they say how wide it is and whether it keeps the untouched tail.

    Raises:
        RuntimeError: when the tensors do not fit.
    """
    dim = len(weights["projection.1.bias"])
    keeps = any(name.startswith("plain_tail.") for name in weights)
    network = assemble(create_backbone(backbone, "random"), pooling, dim, trained, keeps_untouched=keeps)
    return ExportedEmbedder(with_weights(network, weights), preprocess)


def start_projection(network: TailedEmbedder, features: Tensor, weights: Tensor) -> None:
    """Set the projection to the first principal axes of pooled `features` `(n, c)`, uncentred, each row by its weight.

    Cosine similarities are then as near to those of the untrained features as `dim` numbers allow.
    """
    linear: Any = network.projection[-1]  # type: ignore[index]
    count = min(linear.out_features, *features.shape)
    rows = F.normalize(features.float(), dim=1) * weights.sqrt()[:, None]
    axes = torch.linalg.svd(rows, full_matrices=False).Vh[:count]
    with torch.no_grad():
        linear.weight[:count] = axes
        linear.weight[count:] *= 0.01
        linear.bias.zero_()


def described(network: TailedEmbedder) -> dict[str, int]:
    """Return the numbers of parameters: all, and those that are trained."""
    parameters = list(network.parameters())
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }
