"""Blends a run's weights with those it started from, to keep what COCO taught about things that the run never saw.

"Robust fine-tuning of zero-shot models", https://arxiv.org/abs/2109.01903: weights between start and end often lose
little on the data that was learned from and gain elsewhere. The share of the end is chosen on the validation split.

Run:
    python -m training.detector.blend --run var/runs/detector
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lookalike.errors import LookalikeError, SetupError
from training.detector.config import DetectorConfig
from training.detector.score import fallback_threshold
from training.train_detector import BEST, REPORT, Training
from training.weights import read_weights

BLENDED = "blended.safetensors"
BLEND_REPORT = "blend.json"
_SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_TOLERANCE = 0.005

_log = logging.getLogger(__name__)


def blend(start: Mapping[str, Tensor], end: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return `(1 - share) * start + share * end`, tensor by tensor, for the tensors of `end`."""
    return {name: torch.lerp(start[name].float(), tensor.float(), share) for name, tensor in end.items()}


def smallest_share(figures: Mapping[float, float], tolerance: float) -> float:
    """Return the smallest share whose validation IoU is within `tolerance` of the best."""
    best = max(figures.values())
    return min(share for share, iou in figures.items() if iou >= best - tolerance)


def blend_run(
    run_dir: Path, data: Path, downloads: Path, shares: Sequence[float], tolerance: float
) -> dict[float, float]:
    """Write the blended weights and a report into `run_dir`; return the validation IoU of each share.

    Raises:
        SetupError: when the run has no weights yet, or is of a network that has no COCO start.
    """
    if not (run_dir / BEST).exists() or not (run_dir / REPORT).exists():
        raise SetupError(f"{run_dir} holds no trained weights")
    config = DetectorConfig.model_validate(json.loads((run_dir / REPORT).read_text())["config"])
    training = Training(config, data, run_dir, downloads)
    network = training.learner.network
    start = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    end = read_weights(run_dir / BEST)
    figures, thresholds, sources = {}, {}, {}
    for share in shares:
        network.load_state_dict({**start, **blend(start, end, share)})
        training.ema.module.load_state_dict(network.state_dict())
        found = training.measure()
        figures[share], thresholds[share] = found.mean_over_sources(), fallback_threshold(found)
        sources[share] = found.by_source()
        _log.info("share %.2f: validation IoU %.4f", share, figures[share])
    chosen = smallest_share(figures, tolerance)
    network.load_state_dict({**start, **blend(start, end, chosen)})
    training.learner.write(network, run_dir / BLENDED)
    report = {
        "share": chosen,
        "fallback_threshold": thresholds[chosen],
        "val_mean_iou_over_sources": {str(share): iou for share, iou in figures.items()},
        "val": sources[chosen],
    }
    (run_dir / BLEND_REPORT).write_text(json.dumps(report, indent=1) + "\n")
    _log.info("share %.2f written to %s", chosen, run_dir / BLENDED)
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's error is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Blend trained weights with those that training started from.")
    parser.add_argument("--run", type=Path, default=Path("var/runs/detector"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")))
    parser.add_argument("--downloads", type=Path, default=Path("var/downloads"))
    parser.add_argument("--shares", type=float, nargs="+", default=list(_SHARES))
    parser.add_argument("--tolerance", type=float, default=_TOLERANCE, help="of validation IoU given up at most")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        blend_run(options.run, options.data, options.downloads, options.shares, options.tolerance)
    except LookalikeError as error:
        _log.error("%s", error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
