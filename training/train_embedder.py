"""Trains the embedder and writes its weights, its preprocessing and its figures.

    python -m training.train_embedder --config training/configs/embedder.yaml --out var/runs/embedder
    torchrun --nproc-per-node 2 -m training.train_embedder --config ... --out ...

The same command goes on where a killed run stopped.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lookalike.errors import LookalikeError
from training.embedder.cache import Trunk
from training.embedder.checkpoint import CHECKPOINT_FILE
from training.embedder.config import EmbedderConfig, load_config
from training.embedder.data import CachedMaps, TrainingData
from training.embedder.loop import Trainer
from training.embedder.network import TailedEmbedder, described, start_projection
from training.embedder.processes import Processes
from training.embedder.store import WEIGHTS_FILE, create_network, write_embedder
from training.evaluate_embedder import data_dir
from training.networks import Normalise
from training.own_log import show_own_log

_START_IMAGES = 512  # of each set, that the projection's axes are taken from

_log = logging.getLogger(__name__)


class Folders:
    """Where a run reads and writes."""

    def __init__(self, run: Path, data: Path, cache: Path, downloads: Path) -> None:
        self.run, self.data, self.cache, self.downloads = run, data, cache, downloads


def train(config: EmbedderConfig, folders: Folders, processes: Processes, threads: int, go_on: bool = True) -> Trainer:
    """Train, or go on training, and write the result into the run's folder; without `go_on` only write it.

    Raises:
        SetupError: for data, weights or settings that are missing or wrong.
    """
    folders.run.mkdir(parents=True, exist_ok=True)
    data, normalise = TrainingData(config, folders.data), Normalise(config.preprocess)
    fresh = not (folders.run / CHECKPOINT_FILE).exists()
    network, cache = start_network(config, data, normalise, folders, processes, threads, fresh)
    trainer = Trainer(config, data, network, normalise, processes, folders.run, cache)
    _log.info("%d images to train on, %d held out; %s", len(data.train), len(data.validation), described(network))
    if go_on:
        trainer.run()
    if processes.first:
        write_embedder(trainer.result, config, folders.run)
    return trainer


def start_network(
    config: EmbedderConfig,
    data: TrainingData,
    normalise: Normalise,
    folders: Folders,
    processes: Processes,
    threads: int,
    fresh: bool = True,
) -> tuple[TailedEmbedder, CachedMaps | None]:
    """Return the untrained embedder and what it makes of the views; a run that goes on needs no `fresh` projection."""
    torch.manual_seed(config.seed)
    network = create_network(config.network, folders.downloads)
    cache = _cached_maps(config, data, network, folders, processes, threads)
    if fresh and config.network.projection_start == "principal":
        start_projection(network, *_start_features(data, network, normalise, cache))
    return network, cache


def _cached_maps(
    config: EmbedderConfig,
    data: TrainingData,
    network: TailedEmbedder,
    folders: Folders,
    processes: Processes,
    threads: int,
) -> CachedMaps | None:
    """Return what the untouched network makes of every view, computed where it is not kept; None without a cache."""
    if not config.views.cached:
        return None
    if processes.first:
        made = CachedMaps(data, Trunk(network, config.preprocess, processes.device, threads), folders.cache)
    processes.wait()
    if not processes.first:
        made = CachedMaps(data, Trunk(network, config.preprocess, processes.device, threads), folders.cache)
    return made


def _start_features(
    data: TrainingData, network: TailedEmbedder, normalise: Normalise, cache: CachedMaps | None
) -> tuple[Tensor, Tensor]:
    """Return pooled features `(n, feature_dim)` of training pictures, the same in every process, and weights `(n,)`.

    The weights of each set sum to the same: the axes are not those of the largest set.
    """
    chosen, weights = [], []
    for name in dict.fromkeys(picture.set_name for picture in data.train):
        pictures = [picture for picture in data.train if picture.set_name == name]
        part = pictures[:: max(1, len(pictures) // _START_IMAGES)][:_START_IMAGES]
        chosen += part
        weights += [1 / len(part)] * len(part)
    network.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(chosen), 32):
            chunk = chosen[start : start + 32]
            if cache is not None:
                parts.append(cache.plain_features(chunk).float())
            else:
                maps = network.trunk(normalise(torch.from_numpy(np.stack([data.views.plain(p) for p in chunk]))))
                parts.append(network.pool(network.tail(maps)))
    return torch.cat(parts).clone(), torch.tensor(weights)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description="Train the embedder.")
    parser.add_argument("--config", type=Path, default=Path("training/configs/embedder.yaml"))
    parser.add_argument("--out", type=Path, default=Path("var/runs/embedder"), help="checkpoint, figures and result")
    parser.add_argument("--data", type=Path, default=data_dir(), help="the folder that the configuration starts from")
    parser.add_argument("--cache", type=Path, default=Path("var/cache/embedder"), help="keeps maps; may be deleted")
    parser.add_argument("--downloads", type=Path, default=Path("var/downloads"))
    parser.add_argument("--write-only", action="store_true", help="write the best of the checkpoint; train no further")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of this process, on the CPU")
    options = parser.parse_args(argv)
    show_own_log()
    torch.set_num_threads(options.threads)
    folders = Folders(options.out, options.data, options.cache, options.downloads)
    processes = Processes(options.device)
    try:
        trainer = train(load_config(options.config), folders, processes, options.threads, not options.write_only)
    except LookalikeError as error:
        _log.error("%s%s", error.message, f"; allowed: {error.allowed}" if error.allowed else "")
        return 1
    finally:
        processes.leave()
    if processes.first:
        best = trainer.progress
        print(f"{options.out / WEIGHTS_FILE}: best mean R@1 {best.best:.3f} on validation at step {best.best_step}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
