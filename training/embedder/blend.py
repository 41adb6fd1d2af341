"""Blends a trained embedder with its start: less is forgotten of what the training sets do not show.

    python -m training.embedder.blend --run var/runs/embedder --out var/runs/embedder-blended

Weights are averaged ("Robust fine-tuning of zero-shot models", https://arxiv.org/abs/2109.01903). Of the shares of the
trained weights the smallest is taken whose mean R@1 on the held-out classes is within `--allow` of the best.
"""

import argparse
import copy
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from lookalike.errors import LookalikeError
from training.embedder.config import EmbedderConfig, load_config
from training.embedder.data import TrainingData
from training.embedder.network import TailedEmbedder
from training.embedder.processes import Processes
from training.embedder.store import read_embedder, write_embedder
from training.embedder.validation import Validation, figures
from training.evaluate_embedder import data_dir
from training.networks import Normalise
from training.train_embedder import Folders, start_network

SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def blended(start: TailedEmbedder, trained: TailedEmbedder, share: float) -> TailedEmbedder:
    """Return a network of `share` of the trained weights and the rest of the start's."""
    mixed, first = copy.deepcopy(trained), start.state_dict()
    state = {
        name: torch.lerp(first[name], tensor, share) if tensor.is_floating_point() else tensor
        for name, tensor in trained.state_dict().items()
    }
    mixed.load_state_dict(state)
    return mixed.eval()


def smallest_share(recalls: Mapping[float, float], allow: float) -> float:
    """Return the smallest share whose recall is within `allow` of the best."""
    return min(share for share, recall in recalls.items() if recall >= max(recalls.values()) - allow)


def blend(config: EmbedderConfig, folders: Folders, out: Path, allow: float, threads: int) -> dict[float, float]:
    """Measure each share on the held-out classes, write the blend that the rule picks, return the mean R@1 by share.

    Raises:
        SetupError: when the run holds no trained embedder, or its data is missing or wrong.
    """
    processes, data, normalise = Processes("cpu"), TrainingData(config, folders.data), Normalise(config.preprocess)
    start, cache = start_network(config, data, normalise, folders, processes, threads)
    trained = read_embedder(folders.run)
    validation, recalls = Validation(data, normalise, cache), {}
    for share in SHARES:
        found = figures(validation.scores(blended(start, trained, share), processes.device))
        recalls[share] = found["validation/recall_at_1"]
        line = ", ".join(f"{name.removeprefix('validation/')} {value:.3f}" for name, value in found.items())
        print(f"share {share}: {line}", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    write_embedder(blended(start, trained, smallest_share(recalls, allow)), config, out)
    return recalls


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's error is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Blend a trained embedder with its start.")
    parser.add_argument("--config", type=Path, default=Path("training/configs/embedder.yaml"))
    parser.add_argument("--run", type=Path, default=Path("var/runs/embedder"))
    parser.add_argument("--out", type=Path, default=Path("var/runs/embedder-blended"))
    parser.add_argument("--data", type=Path, default=data_dir())
    parser.add_argument("--cache", type=Path, default=Path("var/cache/embedder"))
    parser.add_argument("--downloads", type=Path, default=Path("var/downloads"))
    parser.add_argument("--allow", type=float, default=0.01, help="of mean R@1, to be given up")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(options.threads)
    folders = Folders(options.run, options.data, options.cache, options.downloads)
    try:
        recalls = blend(load_config(options.config), folders, options.out, options.allow, options.threads)
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(f"{options.out}: {smallest_share(recalls, options.allow)} of the trained weights")
    return 0


if __name__ == "__main__":
    sys.exit(main())
