"""Where a run's figures go: TensorBoard, a JSON-lines file, and Weights & Biases when it is installed."""

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class Tracker:
    """Writes figures by step; a run that goes on appends to what is there."""

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Weights & Biases runs offline unless WANDB_MODE says otherwise: a training must not wait for a login."""
        self._lines = (run_dir / "figures.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run_dir / "tensorboard"))
        self._wandb: Any = None
        if importlib.util.find_spec("wandb"):
            import wandb

            mode: Any = os.environ.get("WANDB_MODE", "offline")
            name = run_dir.name
            self._wandb = wandb.init(
                project="lookalike-embedder", name=name, id=name, resume="allow", dir=run_dir, mode=mode, config=config
            )

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of a step."""
        self._lines.write(json.dumps({"step": step, **figures}) + "\n")
        self._lines.flush()
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(figures), step=step)

    def close(self) -> None:
        """Write out what is held back."""
        self._lines.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
