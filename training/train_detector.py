"""Fine-tunes the subject detector: reads top to bottom from data to weights; a killed run goes on where it was.

Run:
    python -m training.train_detector --config training/configs/detector.yaml --run var/runs/detector
"""

import argparse
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from lookalike.errors import LookalikeError, SetupError
from training.detector.compose import Kit
from training.detector.config import DetectorConfig, load_config
from training.detector.data import Batch, Stills, Views, carve, collate, read_photos, still_batches
from training.detector.networks import Learner, make_learner
from training.detector.score import BestBoxes, best_boxes, fallback_threshold

CHECKPOINT = "checkpoint.pt"
BEST = "subject.safetensors"
REPORT = "report.json"

_log = logging.getLogger(__name__)


class Diverged(SetupError):
    """The loss is no longer a number: the learning rate is too high."""


@dataclass
class Progress:
    """How far a run is; with the tensors, all that a checkpoint holds."""

    epoch: int = 0
    step: int = 0  # of the epoch
    best_iou: float = -1.0
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)


def rate_factor(step: int, steps: int, warm_up: float, last: float) -> float:
    """Return the share of the full learning rate at `step` of `steps`: warm-up, then half a cosine to `last`."""
    warm_steps = max(1, round(warm_up * steps))
    if step < warm_steps:
        return (step + 1) / warm_steps
    done = min(1.0, (step - warm_steps) / max(1, steps - warm_steps))
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done))


class Training:
    """One run in one folder."""

    def __init__(self, config: DetectorConfig, data_dir: Path, run_dir: Path, downloads_dir: Path) -> None:
        self.config, self.run_dir = config, run_dir
        self.device = pick_device(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        folder = data_dir / config.data.folder
        photos = read_photos(folder, "train", config.data.on_bad_row)
        further = [p for extra in config.data.further for p in read_photos(extra, "train", config.data.on_bad_row)]
        self.train_photos, self.val_photos = carve(photos, config.data, config.seed, further)
        kit = load_kit(folder, config)
        self.views = Views(self.train_photos, kit, config.data, config.augment, config.preprocess, config.seed)
        self.stills = Stills(self.val_photos, config.preprocess)
        self.progress = Progress()
        self._sum = 0.0  # of the epoch's losses
        self.learner: Learner = make_learner(config, downloads_dir, self._first_pixels())
        self.learner.network.to(self.device)
        self.ema = AveragedModel(
            self.learner.network, multi_avg_fn=get_ema_multi_avg_fn(config.optimiser.ema), use_buffers=True
        )
        self.optimiser = torch.optim.AdamW(self.learner.parameter_groups(), lr=config.optimiser.rate)
        self.writer: SummaryWriter | None = None

    def _first_pixels(self) -> Iterable[Tensor]:
        stills = Stills(
            self.train_photos[:: max(1, len(self.train_photos) // self.config.start.fit_images)], self.config.preprocess
        )
        return (batch.pixels for batch in still_batches(stills, 8, self.config.start.fit_images))

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch; a last part of a batch is left out."""
        return max(1, self.config.data.views_per_epoch // self.config.optimiser.batch)

    def run(self, stop_after_steps: int | None = None) -> Progress:
        """Train to the last epoch or until validation stops improving; `stop_after_steps` ends sooner, as a kill."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.resume()
        self.writer = SummaryWriter(str(self.run_dir / "tensorboard"))
        started_s, first_epoch = time.monotonic(), self.progress.epoch
        settings = self.config.optimiser
        while self.progress.epoch < settings.epochs and not self._is_stale():
            if not self._epoch(stop_after_steps):
                return self.progress
            self._validate()
            done = self.progress.epoch - first_epoch
            left_s = (time.monotonic() - started_s) / done * (settings.epochs - self.progress.epoch)
            latest = self.progress.history[-1]
            figures = " ".join(f"{name}={value:.4f}" for name, value in latest.items() if name != "epoch")
            _log.info("epoch %d/%d %s, %.0f min left", self.progress.epoch, settings.epochs, figures, left_s / 60)
        self.writer.close()
        return self.progress

    def _is_stale(self) -> bool:
        return self.progress.epoch - 1 - self.progress.best_epoch >= self.config.optimiser.patience

    def _epoch(self, stop_after_steps: int | None) -> bool:
        """Go through what is left of an epoch; return whether its end was reached."""
        state, settings = self.progress, self.config.optimiser
        self.views.epoch, self.views.first = state.epoch, state.step * settings.batch
        workers = self.config.workers
        loader = DataLoader(
            self.views,
            settings.batch,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if workers else None,
        )
        self.learner.train_mode()
        title = f"epoch {state.epoch + 1}/{settings.epochs}"
        bar = tqdm(loader, title, total=self.steps_per_epoch, initial=state.step, disable=None, mininterval=5)
        for batch in bar:
            if state.step == self.steps_per_epoch:
                break
            losses = self._step(batch)
            state.step += 1
            bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()}, refresh=False)
            total = state.epoch * self.steps_per_epoch + state.step
            if state.step % self.config.checkpoint_steps == 0:
                self.save()
            if total == stop_after_steps:
                return False
        state.epoch, state.step = state.epoch + 1, 0
        return True

    def _step(self, batch: Batch) -> dict[str, float]:
        settings = self.config.optimiser
        total_step = self.progress.epoch * self.steps_per_epoch + self.progress.step
        factor = rate_factor(total_step, settings.epochs * self.steps_per_epoch, settings.warm_up, settings.last_rate)
        for group in self.optimiser.param_groups:
            group["lr"] = settings.rate * group["scale"] * factor
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp and self.device.type == "cuda"):
            losses = self.learner.losses(batch.pixels.to(self.device), batch.truth)
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise Diverged(f"the loss is {loss.item()} at step {total_step}: lower optimiser.rate")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learner.network.parameters(), settings.clip)
        self.optimiser.step()
        self.ema.update_parameters(self.learner.network)
        figures = {name: float(value.detach()) for name, value in losses.items()}
        if self.writer:
            for name, value in figures.items():
                self.writer.add_scalar(f"loss/{name}", value, total_step)
            self.writer.add_scalar("rate", settings.rate * factor, total_step)
        self._sum = self._sum + sum(figures.values())
        return figures

    def measure(self) -> BestBoxes:
        """Return the averaged network's best boxes on the validation split."""
        return best_boxes(
            self.learner.best_box(self.ema.module), self.stills, [photo.source for photo in self.val_photos]
        )

    def _validate(self) -> None:
        state, found = self.progress, self.measure()
        iou = found.mean_over_sources()
        figures = {"epoch": float(state.epoch), "loss": self._sum / self.steps_per_epoch, "val_iou": iou}
        self._sum = 0.0
        figures |= {f"val/{source}": mean for source, (mean, _) in found.by_source().items()}
        state.history.append(figures)
        if self.writer:
            for name, value in figures.items():
                self.writer.add_scalar(f"epoch/{name}", value, state.epoch)
            self.writer.flush()
        if iou > state.best_iou:
            state.best_iou, state.best_epoch = iou, state.epoch - 1
            self.learner.write(self.ema.module, self.run_dir / BEST)
            self._report(found)
        self.save()

    def _report(self, found: BestBoxes) -> None:
        threshold = fallback_threshold(found)
        report = {
            "epoch": self.progress.epoch,
            "val_mean_iou_over_sources": found.mean_over_sources(threshold),
            "fallback_threshold": threshold,
            "val": {source: {"mean_iou": a, "misses": b} for source, (a, b) in found.by_source(threshold).items()},
            "train_photos": len(self.train_photos),
            "val_photos": len(self.val_photos),
            "config": json.loads(self.config.model_dump_json()),
        }
        (self.run_dir / REPORT).write_text(json.dumps(report, indent=1) + "\n")

    def save(self) -> None:
        """Write a checkpoint; a kill while it is written leaves the one before."""
        partial = self.run_dir / f".{CHECKPOINT}.partial"
        torch.save(
            {
                "network": self.learner.network.state_dict(),
                "ema": self.ema.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "progress": asdict(self.progress),
                "loss_sum": self._sum,
                "config": self.config.model_dump_json(),
            },
            partial,
        )
        partial.replace(self.run_dir / CHECKPOINT)

    def resume(self) -> bool:
        """Go on from this folder's checkpoint; return whether there is one.

        Raises:
            SetupError: when it was written under other settings.
        """
        path = self.run_dir / CHECKPOINT
        if not path.exists():
            return False
        saved = torch.load(path, map_location=self.device, weights_only=True)
        if DetectorConfig.model_validate_json(saved["config"]) != self.config:
            raise SetupError(f"{path} was written under other settings: choose another --run, or delete it")
        self.learner.network.load_state_dict(saved["network"])
        self.ema.load_state_dict(saved["ema"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.progress = Progress(**saved["progress"])
        self._sum = saved["loss_sum"]
        _log.info("resumed at epoch %d, step %d", self.progress.epoch + 1, self.progress.step)
        return True


def load_kit(folder: Path, config: DetectorConfig) -> Kit | None:
    """Return the kit without the walls of photos that are measured on; None when the mix renders nothing."""
    if not any(name.startswith("rendered:") for name in config.data.mix):
        return None

    def on_bad(message: str) -> None:
        if config.data.on_bad_row == "stop":
            raise SetupError(message)
        _log.warning("%s: skipped", message)

    test = read_photos(folder, "val", config.data.on_bad_row)
    # mcv19_qsd1_w4_00002.jpg was cut to wall_19_qsd1_w4_00002.jpg.
    return Kit.load(folder / "kit", {p.path.stem.removeprefix("mcv") for p in test if "museum" in p.source}, on_bad)


def pick_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's error is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Train the subject detector.")
    parser.add_argument("--config", type=Path, default=Path("training/configs/detector.yaml"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")))
    parser.add_argument("--run", type=Path, default=Path("var/runs/detector"), help="checkpoints, curves, weights")
    parser.add_argument("--downloads", type=Path, default=Path("var/downloads"))
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        training = Training(load_config(options.config), options.data, options.run, options.downloads)
        _log.info("%d photos to train on, %d to validate on", len(training.train_photos), len(training.val_photos))
        progress = training.run()
    except LookalikeError as error:
        _log.error("%s", error.message)
        return 1
    _log.info(
        "best validation IoU %.4f in epoch %d: %s", progress.best_iou, progress.best_epoch + 1, options.run / BEST
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
