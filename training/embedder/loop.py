"""The training itself: steps, validations, checkpoints; the same from one process, from several, and resumed."""

import hashlib
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_metric_learning.utils import common_functions
from torch import Tensor, nn

from lookalike.errors import SetupError
from training.embedder.checkpoint import Average, Progress, load_checkpoint, save_checkpoint
from training.embedder.config import EmbedderConfig, Optimisation
from training.embedder.data import Batch, CachedMaps, MapBatches, PixelBatches, TrainingData, batch_loader
from training.embedder.kept import KeptFeatures
from training.embedder.losses import SetLosses
from training.embedder.network import TailedEmbedder
from training.embedder.processes import Processes
from training.embedder.tracking import Tracker
from training.embedder.validation import Validation, figures

_PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_REPORT_EVERY = 20  # steps

_log = logging.getLogger(__name__)


class Trainer:
    """One run; `run` goes on where the checkpoint in `run_dir` stands."""

    def __init__(
        self,
        config: EmbedderConfig,
        data: TrainingData,
        network: TailedEmbedder,
        normalise: nn.Module,
        processes: Processes,
        run_dir: Path,
        cache: CachedMaps | None = None,
    ) -> None:
        """Raises SetupError for a checkpoint of another configuration."""
        self.config, self.data, self.processes, self._run_dir, self._cache = config, data, processes, run_dir, cache
        # Depthwise convolutions are half again as fast on a CPU when channels come last.
        self.network: TailedEmbedder = network.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._normalise = normalise.to(processes.device)
        self._kept = (
            KeptFeatures(config, data, self.network, processes.device, cache) if config.loss.keep_weight else None
        )
        _seed(config.seed, "losses")  # proxies start the same in each process
        self.losses = SetLosses(config.loss, data.sampler.class_counts, config.network.dim).to(processes.device)
        self._optimiser = torch.optim.AdamW(self._groups(), weight_decay=config.optimisation.weight_decay)
        self._precision = precision_of(config.optimisation, processes.device)
        self._scaler = torch.amp.GradScaler(processes.device.type, enabled=self._precision == torch.float16)
        self.average = Average(self.network, config.optimisation.ema)
        self.best = Average(self.network, 0.0)
        self._validation = Validation(data, self._normalise, cache) if data.validation and processes.first else None
        self.progress = load_checkpoint(run_dir, config, self._parts()) or Progress()
        self._tracker = Tracker(run_dir, config.model_dump(mode="json")) if processes.first else None

    def run(self) -> Progress:
        """Train until the last step, or until validation has not improved for a while; return how far it came."""
        config, start_s, first = self.config, time.monotonic(), self.progress.step
        for batch in batch_loader(self._batches(first), config.loaders):
            if self._is_over():
                break
            losses = self.step(batch)
            self._report(losses, start_s, first)
            step = self.progress.step
            last = step == config.optimisation.steps
            if config.validation.share and (step % config.validation.every_steps == 0 or last):
                self._validate()
            if step % config.checkpoint_steps == 0 or last or self._is_over():
                self._save()
        if self._tracker is not None:
            self._tracker.close()
        return self.progress

    def step(self, batch: Batch) -> Mapping[str, float]:
        """Take one step; return the losses by set."""
        config, step = self.config, self.progress.step
        self._set_training()
        for group in self._optimiser.param_groups:
            group["lr"] = group["highest"] * rate_at(step, config.optimisation)
        _seed(config.seed, step, self.processes.rank)  # dropout; what the losses draw is the same in all processes
        device = self.processes.device
        with torch.autocast(device.type, self._precision, enabled=self._precision != torch.float32):
            embeddings, plain = self._embed(batch)
        parts = self._losses_of(batch, embeddings.float(), plain)
        total: Tensor = torch.stack(list(parts.values())).sum()
        self._move(total)
        self.average.update(self.network, step)
        self.progress = self.progress._replace(step=step + 1)
        return {name: float(part.detach()) for name, part in parts.items()} | {"total": float(total.detach())}

    def _losses_of(self, batch: Batch, embeddings: Tensor, plain: Tensor | None) -> dict[str, Tensor]:
        step, processes = self.progress.step, self.processes
        samples = self.data.sampler.batch(step)
        if len(samples) != len(batch.samples) * processes.count:
            raise SetupError(f"a batch of {len(samples)} is split into {processes.count} times {len(batch.samples)}")
        classes = torch.tensor([sample.class_number for sample in samples], device=processes.device)
        _seed(self.config.seed, step)
        return self.losses(
            processes.gathered(embeddings),
            classes,
            [sample.set_name for sample in samples],
            None if plain is None else processes.gathered(plain),
        )

    def _embed(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        inputs = batch.inputs.to(self.processes.device)
        features = channels_last(inputs.float()) if self._cache is not None else self._trunk(inputs)
        plain = None if self._kept is None else F.normalize(self._kept.of(batch, inputs), dim=1)
        return self.network.embed_map(features), plain

    def _trunk(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.network.trunk(channels_last(self._normalise(pixels)))
        return features

    def _move(self, total: Tensor) -> None:
        if not torch.isfinite(total):
            raise SetupError(f"step {self.progress.step}: the loss is {float(total)}; lower the learning rate")
        self._optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()
        self._scaler.unscale_(self._optimiser)
        self.processes.add_gradients(self.network)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimisation.clip_norm)
        self._scaler.step(self._optimiser)
        self._scaler.update()

    def _groups(self) -> list[dict[str, Any]]:
        settings = self.config.optimisation
        new = [*self.network.projection.parameters(), *self.network.pool.parameters(), *self.losses.parameters()]
        known = {id(parameter) for parameter in new}
        old = [p for p in self.network.parameters() if p.requires_grad and id(p) not in known]
        groups = [(new, settings.learning_rate), (old, settings.backbone_learning_rate)]
        return [{"params": part, "lr": rate, "highest": rate} for part, rate in groups if part]

    def _set_training(self) -> None:
        self.network.train()
        for part in self.network.untouched_parts:
            part.train(self.config.network.trained == "all" and part is self.network.trunk)
        if self.config.optimisation.batch_norm == "frozen":
            for module in self.network.modules():
                # A batch's statistics are those of a few classes, not of what the service sees.
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def _batches(self, first: int) -> PixelBatches:
        rank, ranks = self.processes.rank, self.processes.count
        if self._cache is not None:
            return MapBatches(self.data, self._cache, first, rank, ranks)
        return PixelBatches(self.data, first, rank, ranks)

    def _validate(self) -> None:
        scores = None
        if self._validation is not None and self._tracker is not None:
            found = figures(self._validation.scores(self.average.network, self.processes.device))
            self._tracker.write(self.progress.step, found)
            scores = found["validation/recall_at_1"]
            _log.info("step %d: %s", self.progress.step, _line(found))
        mean = float(self.processes.told(scores))
        step, best, best_step, worse = self.progress
        if mean > best:
            self.best.network.load_state_dict(self.average.network.state_dict())
            best, best_step, worse = mean, step, 0
        else:
            worse += 1
        self.progress = Progress(step, best, best_step, worse)

    def _is_over(self) -> bool:
        return self.progress.worse_in_a_row >= self.config.validation.patience

    def _report(self, losses: Mapping[str, float], start_s: float, first: int) -> None:
        step, steps = self.progress.step, self.config.optimisation.steps
        if self._tracker is None or (step % _REPORT_EVERY and step != steps):
            return
        rate = (step - first) / (time.monotonic() - start_s)
        images = rate * self.data.sampler.batch_size
        line = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        _log.info("step %d of %d, %.0f images/s, %.0f s left: %s", step, steps, images, (steps - step) / rate, line)
        shown = {f"loss/{name}": loss for name, loss in losses.items()}
        self._tracker.write(step, {**shown, "images_a_second": images, "rate": rate_at(step, self.config.optimisation)})

    def _save(self) -> None:
        if self.processes.first:
            save_checkpoint(self._run_dir, self.config, self.progress, self._parts())
        self.processes.wait()

    def _parts(self) -> dict[str, Any]:
        parts = {"network": self.network, "losses": self.losses, "optimiser": self._optimiser, "scaler": self._scaler}
        return parts | {"average": self.average.network, "best": self.best.network}

    @property
    def result(self) -> TailedEmbedder:
        """The network to keep: the best average on validation, or the last one where nothing was held out."""
        chosen = self.best if self.config.validation.share and self.progress.best_step else self.average
        network: TailedEmbedder = chosen.network
        return network


def channels_last(maps: Tensor) -> Tensor:
    """Return feature maps with the channels last in memory; tokens as they are."""
    return maps.contiguous(memory_format=torch.channels_last) if maps.ndim == 4 else maps


def rate_at(step: int, settings: Optimisation) -> float:
    """Return the share of the highest learning rate: a linear warm-up, then a cosine down to nothing."""
    if step < settings.warmup_steps:
        return (step + 1) / (settings.warmup_steps + 1)
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def precision_of(settings: Optimisation, device: torch.device) -> torch.dtype:
    """Return what the network computes in: lower precision pays on CUDA alone."""
    if settings.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return _PRECISIONS.get(settings.precision, torch.float32)


def _seed(*parts: object) -> None:
    number = int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4])
    torch.manual_seed(number)
    common_functions.NUMPY_RANDOM.seed(number)


def _line(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name.removeprefix('validation/')} {value:.3f}" for name, value in found.items())
