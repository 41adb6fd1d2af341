"""What a run needs to go on after a kill exactly as it would have: written whole or not at all."""

import copy
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from lookalike.errors import SetupError
from training.embedder.config import EmbedderConfig

CHECKPOINT_FILE = "checkpoint.pt"


class Progress(NamedTuple):
    """How far a run is, and its best validation so far."""

    step: int = 0  # of the next batch
    best: float = -1.0
    best_step: int = 0
    worse_in_a_row: int = 0


class Average:
    """The exponential moving average of a network's trained parameters and of its statistics."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards `network`; less slowly in the first steps, when the average still holds the start."""
        decay = min(self._decay, (1 + step) / (10 + step))
        average = self.network.state_dict()
        for name, value in network.state_dict().items():
            mine = average[name]
            if value.dtype.is_floating_point:
                mine.lerp_(value, 1 - decay)
            else:
                mine.copy_(value)


def config_hash(config: EmbedderConfig) -> str:
    """Return what tells whether a checkpoint belongs to a configuration; how often it is written does not matter."""
    return hashlib.sha256(config.model_dump_json(exclude={"checkpoint_steps", "loaders"}).encode()).hexdigest()


def save_checkpoint(run_dir: Path, config: EmbedderConfig, progress: Progress, parts: dict[str, Any]) -> None:
    """Write the states of `parts` (all have `state_dict`); random numbers need none, each step seeds its own."""
    states = {name: part.state_dict() for name, part in parts.items()}
    whole = {"config": config_hash(config), "progress": tuple(progress), "states": states}
    partial = run_dir / f"{CHECKPOINT_FILE}.partial"
    torch.save(whole, partial)
    partial.replace(run_dir / CHECKPOINT_FILE)


def load_checkpoint(run_dir: Path, config: EmbedderConfig, parts: dict[str, Any]) -> Progress | None:
    """Set `parts` to what the checkpoint holds and return how far it is; None where there is none.

    Raises:
        SetupError: when it cannot be read, or was written under another configuration.
    """
    path = run_dir / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise SetupError(f"{path} cannot be read ({error}); remove it to start anew") from error
    if whole["config"] != config_hash(config):
        raise SetupError(f"{path} was written under another configuration: name another --out, or remove it")
    for name, part in parts.items():
        part.load_state_dict(whole["states"][name])
    return Progress(*whole["progress"])
