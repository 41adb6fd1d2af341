"""Several processes that train one network together, as torchrun starts them; one process is the same without it."""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Processes:
    """This process among all that train together."""

    def __init__(self, device: str = "auto") -> None:
        """Join the group that torchrun's environment describes; nothing is joined outside of torchrun."""
        self.rank, self.count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        local = int(os.environ.get("LOCAL_RANK", 0))
        cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
        self.device = torch.device("cuda", local) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(self.device)
        if self.count > 1:
            dist.init_process_group("nccl" if cuda else "gloo")

    @property
    def first(self) -> bool:
        """Whether this process writes, validates and reports."""
        return self.rank == 0

    def gathered(self, values: Tensor) -> Tensor:
        """Return the rows of all processes in the order of their ranks; gradients flow back to each."""
        if self.count == 1:
            return values
        return _Gather.apply(values)

    def add_gradients(self, module: nn.Module) -> None:
        """Add up each parameter's gradient over the processes: each holds the part that its own rows gave."""
        if self.count == 1:
            return
        for parameter in module.parameters():
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)

    def told(self, value: Any) -> Any:
        """Return the first process's value in all of them."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.count > 1:
            dist.barrier()

    def leave(self) -> None:
        """Leave the group."""
        if self.count > 1:
            dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """All processes' rows. Each computes the same loss of all rows, so a row's gradient is there without sending it."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, values.contiguous())
        context.start, context.rows = dist.get_rank() * len(values), len(values)
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return gradient[context.start : context.start + context.rows]
