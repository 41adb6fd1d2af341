"""Fine-tunes the network behind the metadata heads; a killed run goes on where it was.

    python -m training.train_metadata_network --config training/configs/metadata.yaml --run var/runs/metadata

writes `network.safetensors` (float16, of the best epoch, without its heads), `report.json`, `checkpoint.pt` and
`tensorboard/` into the run's folder. `--attributes gender` trains a network for one attribute alone.
"""

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from lookalike.errors import SetupError
from training.fetch_weights import fetch_pretrained
from training.metadata.config import TrainingConfig, load_config
from training.metadata.heads import class_weights
from training.metadata.losses import distillation_loss, head_loss
from training.metadata.network import CHECKPOINT, NETWORK_FILE, REPORT, MetadataNetwork
from training.metadata.pictures import LearningSet, random_views, read_learning_set
from training.metadata.report import Score, score_of
from training.metadata.teacher import Teacher, read_teacher
from training.own_log import exit_status
from training.weights import load_weights, write_half

_VAL_BATCH = 128
_log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run is; with the tensors, all that a checkpoint holds."""

    epoch: int = 0
    step: int = 0  # of the epoch
    best: float = -1.0
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0  # of training, validation apart; the part of an epoch before a kill is not counted


class Training:
    """One run in one folder."""

    def __init__(
        self,
        config: TrainingConfig,
        data: LearningSet,
        network: MetadataNetwork,
        run_dir: Path,
        teacher: Teacher | None = None,
    ) -> None:
        """Raises SetupError for a checkpoint of other settings."""
        self.config, self.settings, self.data, self.run_dir = config, config.network, data, run_dir
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Depthwise convolutions are half again as fast on a CPU when channels come last.
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._frozen = self.network.frozen_parts(self.settings.trained)
        for part in self._frozen:
            part.requires_grad_(False)
        self.ema = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(self.settings.ema), use_buffers=True)
        self.optimiser = torch.optim.AdamW(self._groups(), weight_decay=self.settings.weight_decay)
        self._classes = {name: c.to(self.device) for name, c in data.classes(data.train).items()}
        counts = {name: len(labels) for name, labels in data.labels.items()}
        power = self.settings.class_weight_power
        self._weights = {
            name: class_weights(c.cpu(), counts[name], power).to(self.device) for name, c in self._classes.items()
        }
        self._pixels = data.train.pixels.to(self.device)
        self._teacher = None if teacher is None else teacher.to(self.device)
        self._rows = np.repeat(np.arange(len(data.train)), data.copies)
        self.progress = Progress()
        self._sum = 0.0  # of the epoch's losses
        self._scores: dict[str, Score] = {}  # of the network as it is, once it was measured
        self._resume()

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; a last part of a batch is left out."""
        return max(1, len(self._rows) // self.settings.batch)

    def run(self, stop_after_steps: int | None = None) -> Progress:
        """Train to the last epoch; `stop_after_steps` ends sooner, as a kill would."""
        writer = SummaryWriter(str(self.run_dir / "tensorboard"))
        while self.progress.epoch < self.settings.epochs:
            started_s = time.monotonic()
            if not self._epoch(stop_after_steps):
                return self.progress
            self.progress.seconds += time.monotonic() - started_s
            figures = self._validate()
            for name, value in figures.items():
                writer.add_scalar(name, value, self.progress.epoch)
            line = " ".join(f"{name}={value:.4f}" for name, value in figures.items())
            minutes = (time.monotonic() - started_s) / 60
            _log.info("epoch %d/%d in %.1f min: %s", self.progress.epoch, self.settings.epochs, minutes, line)
        writer.close()
        return self.progress

    def _groups(self) -> list[dict[str, Any]]:
        heads = list(self.network.heads.parameters())
        backbone = [p for p in self.network.backbone.parameters() if p.requires_grad]
        groups = [(heads, self.settings.learning_rate), (backbone, self.settings.backbone_learning_rate)]
        return [{"params": part, "lr": rate, "highest": rate} for part, rate in groups if part]

    def _epoch(self, stop_after_steps: int | None) -> bool:
        """Go through what is left of an epoch; return whether its end was reached."""
        state, settings = self.progress, self.settings
        order = np.random.default_rng([self.config.seed, state.epoch]).permutation(self._rows)
        self.network.train()
        for part in self._frozen:
            part.eval()
        title = f"epoch {state.epoch + 1}/{settings.epochs}, {settings.edge_px(state.epoch)} px"
        steps = range(state.step, self.steps_per_epoch)
        bar = tqdm(steps, title, total=self.steps_per_epoch, initial=state.step, mininterval=10)
        for step in bar:
            loss = self._step(torch.from_numpy(order[step * settings.batch : (step + 1) * settings.batch].copy()))
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            self._sum += loss
            state.step = step + 1
            if state.step % settings.checkpoint_steps == 0:
                self._save()
            if stop_after_steps == state.epoch * self.steps_per_epoch + state.step:
                return False
        state.epoch, state.step = state.epoch + 1, 0
        return True

    def _step(self, rows: Tensor) -> float:
        settings = self.settings
        step = self.progress.epoch * self.steps_per_epoch + self.progress.step
        # Each step draws from its own seed, so a run that goes on draws what it would have drawn.
        torch.manual_seed(self.config.seed + step)
        dice = torch.Generator().manual_seed(self.config.seed + step)
        for group in self.optimiser.param_groups:
            group["lr"] = group["highest"] * rate_at(step / (settings.epochs * self.steps_per_epoch), settings.warm_up)
        edge_px = settings.edge_px(self.progress.epoch)
        rows = rows.to(self.device)
        views = random_views(self._pixels[rows], edge_px, settings.smallest_edge, settings.light, dice)
        # Lower precision pays on CUDA alone.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.network(views)
            taught = None if self._teacher is None else self._teacher(views)
        loss = self._loss({name: of_head.float() for name, of_head in logits.items()}, rows, taught)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise SetupError(f"the loss is {value} at step {step}: lower network.learning_rate")
        self.optimiser.step()
        self.ema.update_parameters(self.network)
        self._scores = {}
        return value

    def _loss(self, logits: dict[str, Tensor], rows: Tensor, taught: dict[str, Tensor] | None) -> Tensor:
        settings, parts = self.settings, []
        for name, of_head in logits.items():
            loss = head_loss(of_head, self._classes[name][rows], self._weights[name], settings)
            if taught is not None:
                soft = distillation_loss(of_head, taught[name], settings)
                loss = (1 - settings.teacher_weight) * loss + settings.teacher_weight * soft
            parts.append(loss)
        return torch.stack(parts).sum()

    @torch.no_grad()
    def scores(self) -> dict[str, Score]:
        """Return the averaged network's scores on val by attribute, at the size that is served."""
        if self._scores:
            return self._scores
        self.ema.module.eval()
        chunks = self.data.val.pixels.split(_VAL_BATCH)
        guesses = [{k: v.argmax(1).cpu() for k, v in self.ema.module(c.to(self.device)).items()} for c in chunks]
        for name, truth in self.data.classes(self.data.val).items():
            known = torch.tensor([bool(row.values[name]) for row in self.data.val.rows])
            guessed = torch.cat([guess[name] for guess in guesses])
            self._scores[name] = score_of(guessed[known].numpy(), truth[known].numpy())
        return self._scores

    def measure(self) -> dict[str, float]:
        """Return the averaged network's accuracy on val by attribute."""
        return {name: score.accuracy for name, score in self.scores().items()}

    def _validate(self) -> dict[str, float]:
        state, shares = self.progress, self.measure()
        mean = sum(shares.values()) / len(shares)
        loss, self._sum = self._sum / self.steps_per_epoch, 0.0
        figures = {"loss": loss, "val/mean": mean} | {f"val/{name}": share for name, share in shares.items()}
        state.history.append(figures)
        if mean > state.best:
            state.best, state.best_epoch = mean, state.epoch - 1
            self._write(figures)
        self._save()
        return figures

    def _write(self, figures: dict[str, float]) -> None:
        best: MetadataNetwork = self.ema.module
        write_half(best.backbone, self.run_dir / NETWORK_FILE)
        report = {
            "epoch": self.progress.epoch,
            "val": figures,
            "labels": self.data.labels,
            "config": json.loads(self.config.model_dump_json()),
        }
        (self.run_dir / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def _save(self) -> None:
        """Write a checkpoint; a kill while it is written leaves the one before."""
        partial = self.run_dir / f".{CHECKPOINT}.partial"
        states = {"network": self.network, "ema": self.ema, "optimiser": self.optimiser}
        whole: dict[str, Any] = {name: part.state_dict() for name, part in states.items()}
        whole |= {"progress": asdict(self.progress), "sum": self._sum, "config": self.config.model_dump_json()}
        scores = {name: list(score) for name, score in self._scores.items()}
        torch.save(whole | {"rows": len(self._rows), "scores": scores}, partial)
        partial.replace(self.run_dir / CHECKPOINT)

    def _resume(self) -> None:
        path = self.run_dir / CHECKPOINT
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return
        saved = torch.load(path, map_location=self.device, weights_only=True)
        other = TrainingConfig.model_validate_json(saved["config"]).decisive() != self.config.decisive()
        if other or saved.get("rows", len(self._rows)) != len(self._rows):
            raise SetupError(f"{path} was written under other settings: choose another --run, or delete it")
        self.network.load_state_dict(saved["network"])
        self.ema.load_state_dict(saved["ema"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.progress, self._sum = Progress(**saved["progress"]), saved["sum"]
        self._scores = {name: Score(*score) for name, score in saved.get("scores", {}).items()}
        _log.info("resumed at epoch %d, step %d", self.progress.epoch + 1, self.progress.step)


def rate_at(done: float, warm_up: float) -> float:
    """Return the share of the highest learning rate when `done` of the run is done: warm-up, then half a cosine."""
    if done < warm_up:
        return (done + 1e-3) / (warm_up + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / (1 - warm_up)))


def start_network(config: TrainingConfig, labels: dict[str, list[str]], downloads_dir: Path) -> MetadataNetwork:
    """Return the network with the backbone of ImageNet, or of an earlier run, and random heads.

    Raises:
        SetupError: when the weights cannot be had, or do not fit.
    """
    settings = config.network
    package = settings.source, settings.weights_sha256
    file = settings.weights or fetch_pretrained(settings.backbone, settings.backbone, *package, downloads_dir)
    torch.manual_seed(config.seed)
    network = MetadataNetwork(
        settings.preprocess, {k: len(v) for k, v in labels.items()}, settings.dropout, settings.backbone
    )
    load_weights(network.backbone, file, settings.backbone)
    return network


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's error is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Fine-tune the network behind the metadata heads.")
    parser.add_argument("--config", type=Path, default=Path("training/configs/metadata.yaml"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")))
    parser.add_argument("--run", type=Path, default=Path("var/runs/metadata"), help="checkpoint, figures, weights")
    parser.add_argument("--downloads", type=Path, default=Path("var/downloads"))
    parser.add_argument("--attributes", nargs="+", help="heads for these alone: a model of its own for each, say")
    parser.add_argument("--teacher", type=Path, nargs="+", help="folders of finished runs to learn from")
    parser.add_argument("--share", type=float, default=1.0, help="of the train pictures")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)

    def run() -> None:
        config = load_config(options.config)
        data = read_learning_set(config, options.data, config.network.preprocess).only(options.attributes)
        data = data.part(options.share, config.seed)
        teacher = read_teacher(options.teacher, data.labels) if options.teacher else None
        network = start_network(config, data.labels, options.downloads)
        progress = Training(config, data, network, options.run, teacher).run()
        _log.info("best mean accuracy on val %.4f in epoch %d: %s", progress.best, progress.best_epoch + 1, options.run)

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
