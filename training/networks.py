"""The networks as they are exported: uint8 pixels in, what the service needs out, normalisation inside."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lookalike.errors import SetupError
from lookalike.preprocessing import Preprocess
from training.efficientnet_lite import efficientnet_lite
from training.picodet import PicoDet
from training.weights import read_weights, with_weights

MAX_BATCH = 1024
_OPSET = 20


class Normalise(nn.Module):
    """`(n, h, w, 3)` uint8 RGB -> `(n, 3, h, w)` float32, `(x / 255 - mean) / std`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1))
        self.register_buffer("shift", (-mean / std).view(3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        return pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift


class DetectorNetwork(nn.Module):
    """A detector whose every candidate has its best class, before suppression."""

    def __init__(self, network: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.normalise = Normalise(preprocess)
        self.network = network

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `boxes` `(n, a, 4)` and `scores` `(n, a)` float32, `labels` `(n, a)` int64; boxes in input pixels."""
        boxes, class_scores = self.network(self.normalise(pixels))
        scores, labels = class_scores.max(dim=1)
        return {"boxes": boxes, "scores": scores, "labels": labels}


class EmbedderNetwork(nn.Module):
    """A backbone with an optional projection."""

    def __init__(self, backbone: nn.Module, preprocess: Preprocess, projection: nn.Module | None = None) -> None:
        super().__init__()
        self.normalise = Normalise(preprocess)
        self.backbone = backbone
        self.projection = projection or nn.Identity()

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return `embedding` `(n, dim)` float32, L2-normalised, and pooled `features` `(n, feature_dim)` float32."""
        features = self.backbone(self.normalise(pixels))
        return {"embedding": F.normalize(self.projection(features), dim=1), "features": features}


Network = nn.Module  # DetectorNetwork, EmbedderNetwork, or a trained one: uint8 pixels in, tensors by name out


def _picodet_s(preprocess: Preprocess, weights: Mapping[str, Tensor]) -> Network:
    classes = len(weights["predictors.0.classify.bias"])
    return DetectorNetwork(with_weights(PicoDet(classes=classes), weights), preprocess)


def _efficientnet_lite0(preprocess: Preprocess, weights: Mapping[str, Tensor]) -> Network:
    return EmbedderNetwork(with_weights(efficientnet_lite(), weights), preprocess)


def _trained_lite0(first: str) -> Callable[[Preprocess, Mapping[str, Tensor]], Network]:
    """Return what loads an embedder that was trained from the part `first` on."""

    def load(preprocess: Preprocess, weights: Mapping[str, Tensor]) -> Network:
        from training.embedder.network import load_tailed_embedder  # which takes Normalise from here

        return load_tailed_embedder(preprocess, weights, "efficientnet_lite0", first, "avg")

    return load


def _halved_lite0(preprocess: Preprocess, weights: Mapping[str, Tensor]) -> Network:
    from training.metadata.network import HalvedBackbone  # which takes Normalise from here

    return HalvedBackbone(with_weights(efficientnet_lite(), weights), preprocess)


ARCHITECTURES: dict[str, Callable[[Preprocess, Mapping[str, Tensor]], Network]] = {
    "picodet_s": _picodet_s,
    "efficientnet_lite0": _efficientnet_lite0,
    "efficientnet_lite0-blocks.4-avg-512": _trained_lite0("blocks.4"),
    "efficientnet_lite0-blocks.1-avg-512": _trained_lite0("blocks.1"),
    "efficientnet_lite0-half": _halved_lite0,
}


def load_network(architecture: str, weights: Path, preprocess: Preprocess) -> Network:
    """Return the network of `architecture` with the tensors of a safetensors file, in evaluation mode.

    Raises:
        SetupError: for an unknown architecture, or weights that do not fit it.
    """
    if architecture not in ARCHITECTURES:
        raise SetupError(f"unknown architecture {architecture!r}", allowed=sorted(ARCHITECTURES))
    try:
        return ARCHITECTURES[architecture](preprocess, read_weights(weights)).eval()
    except (RuntimeError, KeyError) as error:
        raise SetupError(f"{weights} does not fit {architecture}: {error}") from error


def export_network(network: Network, preprocess: Preprocess, torch_path: Path, onnx_path: Path) -> None:
    """Trace `network` once with a dynamic batch and write it for torch (`.pt2`) and for the CPU runtimes (`.onnx`)."""
    pixels = torch.zeros(2, preprocess.height_px, preprocess.width_px, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    program = torch.export.export(network, (pixels,), dynamic_shapes=({0: batch},))
    torch.export.save(program, torch_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are not the user's
        torch.onnx.export(
            program,
            f=str(onnx_path),
            input_names=["pixels"],
            output_names=list(network(pixels)),
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
        )
