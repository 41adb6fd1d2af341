"""Compares what each runtime makes of a detector's weights, and how long it takes: torch, TorchScript, ONNX Runtime.

Run:
    python -m training.detector.runtimes --weights var/runs/detector/subject.safetensors
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from lookalike.errors import LookalikeError
from lookalike.preprocessing import Preprocess
from training.detector.config import load_config
from training.detector.report import TorchSession, subject_detector_network
from training.networks import DetectorNetwork, export_network

_WARM_UP = 3

Run = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.generic]]]


class RuntimeRow(NamedTuple):
    """One runtime against eager torch."""

    runtime: str
    box_difference_px: float  # the largest
    score_difference: float
    p50_ms: float
    p95_ms: float


def measure_runtimes(weights: Path, preprocess: Preprocess, repeats: int = 30, seed: int = 0) -> list[RuntimeRow]:
    """Return one row a runtime, measured on one random image at a time."""
    network = subject_detector_network(weights, preprocess)
    shape = (1, preprocess.height_px, preprocess.width_px, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    expected = TorchSession(network).run(pixels)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, run in _runtimes(network, preprocess, Path(folder)).items():
            found = run(pixels)
            differences = [float(np.abs(found[key] - expected[key]).max()) for key in ("boxes", "scores")]
            p50, p95 = np.percentile(_latencies_ms(run, pixels, repeats), [50, 95])
            rows.append(RuntimeRow(name, *differences, float(p50), float(p95)))
    return rows


def _runtimes(network: DetectorNetwork, preprocess: Preprocess, folder: Path) -> dict[str, Run]:
    export_network(network, preprocess, folder / "model.pt2", folder / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return {
        "torch": TorchSession(network).run,
        "TorchScript": TorchSession(_scripted(network, preprocess, folder / "model.ts")).run,
        "ONNX Runtime": lambda pixels: dict(zip(names, session.run(names, {"pixels": pixels}), strict=True)),
    }


def _scripted(network: DetectorNetwork, preprocess: Preprocess, path: Path) -> Any:
    """Return `network` traced, written, read back and frozen."""
    pixels = torch.zeros(1, preprocess.height_px, preprocess.width_px, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is kept for who still serves it; torch warns that it is old
        torch.jit.save(torch.jit.trace(network, pixels, strict=False), path)
        return torch.jit.freeze(torch.jit.load(path))


def _latencies_ms(run: Run, pixels: NDArray[np.uint8], repeats: int) -> list[float]:
    latencies = []
    for number in range(_WARM_UP + repeats):
        start_s = time.perf_counter()
        run(pixels)
        if number >= _WARM_UP:
            latencies.append((time.perf_counter() - start_s) * 1000)
    return latencies


def latency_table(rows: Sequence[RuntimeRow]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| runtime | boxes differ by px | scores differ by | p50 ms | p95 ms |", "|---|---|---|---|---|"]
    for row in rows:
        figures = f"{row.box_difference_px:.2g} | {row.score_difference:.2g} | {row.p50_ms:.1f} | {row.p95_ms:.1f}"
        lines.append(f"| {row.runtime} | {figures} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's error is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Compare the runtimes of a trained detector.")
    parser.add_argument("--weights", type=Path, default=Path("var/runs/detector/subject.safetensors"))
    parser.add_argument("--config", type=Path, default=Path("training/configs/detector.yaml"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        rows = measure_runtimes(options.weights, load_config(options.config).preprocess, options.repeats)
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(latency_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
