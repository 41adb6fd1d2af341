"""Writes a trained network as it is kept: float16 safetensors, nothing that only training needs."""

from pathlib import Path

from safetensors.torch import save_file
from torch import nn


def write_half(network: nn.Module, path: Path) -> None:
    """Write what serving needs of `network`: float16, without the batch counters, replacing `path` at once."""
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    halves = {name: value.detach().cpu().half().contiguous() for name, value in sorted(state.items())}
    partial = path.with_suffix(".partial")
    save_file(halves, partial)
    partial.chmod(0o644)
    partial.replace(path)
