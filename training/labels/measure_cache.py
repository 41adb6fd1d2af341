"""Measures what kept arrays save: a task's images read, decoded and resized, against read as kept.

Run:
    python -m training.labels.measure_cache TASK.yaml
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lookalike.errors import LookalikeError
from lookalike.labels.features import PreparedImages, decode_and_fit
from lookalike.labels.folders import load_embedder, task_preprocess
from lookalike.labels.lists import training_examples
from lookalike.labels.task import read_task


def _ms_an_image(read: Callable[[Path], object], paths: Sequence[Path], rounds: int) -> float:
    """Return the best round's milliseconds an image: the others were disturbed."""
    best = float("inf")
    for _ in range(rounds):
        start_s = time.perf_counter()
        for path in paths:
            read(path)
        best = min(best, (time.perf_counter() - start_s) / len(paths))
    return best * 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description="Measure what the cache of decoded images saves.")
    parser.add_argument("task", type=Path)
    parser.add_argument("--embedder", type=Path, default=Path("var/models/embedder"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    try:
        task = read_task(options.task)
        preprocess = task_preprocess(load_embedder(options.embedder, threads=1), task.settings)
        paths = [example.path for example in training_examples(task)]
    except LookalikeError as error:
        print(error.message, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        kept = PreparedImages(preprocess, Path(folder))
        for path in paths:
            kept.pixels(path)
        decoded_ms = _ms_an_image(lambda path: decode_and_fit(path, preprocess), paths, options.rounds)
        kept_ms = _ms_an_image(kept.pixels, paths, options.rounds)
    print(
        f"{len(paths)} images: decoded {decoded_ms:.2f} ms, kept {kept_ms:.2f} ms an image: {decoded_ms / kept_ms:.1f}x"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
