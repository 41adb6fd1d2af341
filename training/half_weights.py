"""Writes a trained network as it is kept: float16 safetensors, nothing that only training needs."""

from pathlib import Path

from safetensors.torch import save_file
from torch import nn


def write_half(network: nn.Module, path: Path) -> None:
    """Write what serving needs of `network`: float16, without the batch counters, replacing `path` at once."""
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    kept = {name: value.half() if value.is_floating_point() else value for name, value in sorted(state.items())}
    halves = {name: value.detach().cpu().contiguous() for name, value in kept.items()}
    partial = path.with_suffix(".partial")
    save_file(halves, partial)
    partial.chmod(0o644)
    partial.replace(path)
