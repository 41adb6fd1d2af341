"""Reads and writes weights: float16 safetensors, nothing that only training needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lookalike.errors import SetupError

Module = TypeVar("Module", bound=nn.Module)


def write_half(network: nn.Module, path: Path) -> None:
    """Write what serving needs of `network`: float16, without the batch counters, replacing `path` at once."""
    counters = batch_counters(network)
    state = {name: value for name, value in network.state_dict().items() if name not in counters}
    kept = {name: value.half() if value.is_floating_point() else value for name, value in sorted(state.items())}
    halves = {name: value.detach().cpu().contiguous() for name, value in kept.items()}
    partial = path.with_suffix(".partial")
    save_file(halves, partial)
    partial.chmod(0o644)
    partial.replace(path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        SetupError: when it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise SetupError(f"{path} cannot be read as weights: {error}") from error


def load_weights(module: Module, path: Path, what: str) -> Module:
    """Return `module`, which an error calls `what`, with the tensors of a safetensors file; as `with_weights`.

    Raises:
        SetupError: when the file is missing or damaged, or holds the weights of something else.
    """
    try:
        return with_weights(module, load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise SetupError(f"{path} is no {what}: {error}") from error


def with_weights(module: Module, weights: Mapping[str, Tensor]) -> Module:
    """Return `module` with `weights`, which must be all of its own but for the batch counters.

    Raises:
        RuntimeError: when they are not.
    """
    module.load_state_dict({**batch_counters(module), **weights}, strict=True)
    return module


def batch_counters(module: nn.Module) -> dict[str, Tensor]:
    """Return the counters of batch normalisation, by name.

    They belong to training: left out of the weights, they cannot change what names the network.
    """
    return {name: value for name, value in module.state_dict().items() if name.endswith("num_batches_tracked")}
