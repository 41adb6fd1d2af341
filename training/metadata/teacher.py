"""Trained networks as a teacher: what they say of the very views that the pupil sees.

The same view for both, and many epochs, teach best: "Knowledge distillation: A good teacher is patient and
consistent", https://arxiv.org/abs/2106.05237.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lookalike.errors import SetupError
from training.metadata.config import TrainingConfig
from training.metadata.network import CHECKPOINT, REPORT, MetadataNetwork


class Teacher(nn.Module):
    """The mean of the logits of one or more networks, none of them trained."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return logits `(n, labels)` float32 by attribute for `(n, h, w, 3)` uint8."""
        said = [network(pixels) for network in self.networks]
        return {name: torch.stack([one[name].float() for one in said]).mean(0) for name in said[0]}


def read_teacher(run_dirs: Sequence[Path], labels: Mapping[str, Sequence[str]]) -> Teacher:
    """Return the averaged networks of finished runs of `training.train_metadata_network`.

    Raises:
        SetupError: when a run is missing, or was made with other labels than `labels`.
    """
    return Teacher([_network(run_dir, labels) for run_dir in run_dirs])


def _network(run_dir: Path, labels: Mapping[str, Sequence[str]]) -> MetadataNetwork:
    try:
        own: dict[str, list[str]] = json.loads((run_dir / REPORT).read_text(encoding="utf-8"))["labels"]
        saved = torch.load(run_dir / CHECKPOINT, map_location="cpu", weights_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"{run_dir} holds no finished run of the metadata network: {error}") from error
    if wrong := [name for name, listed in labels.items() if own.get(name) != list(listed)]:
        raise SetupError(f"the teacher {run_dir} was trained with other labels of {', '.join(wrong)}")
    config = TrainingConfig.model_validate_json(saved["config"])
    counts = {name: len(listed) for name, listed in own.items()}
    network = MetadataNetwork(config.network.preprocess, counts, backbone=config.network.backbone)
    prefix = "module."  # of the moving average
    state = {k.removeprefix(prefix): v for k, v in saved["ema"].items() if k.startswith(prefix)}
    network.load_state_dict(state)
    return network
