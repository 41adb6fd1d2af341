"""Ways to train the metadata network, each with the same few epochs, one after the other; a killed run goes on.

    python -m training.metadata.compare_networks --epochs 10 --out var/runs/compare
    python -m training.metadata.compare_networks --config training/configs/metadata_compare.yaml --epochs 1 --share 0.15

one network for all attributes; one for each; the last layer only; losses for rare labels; learning from a teacher.
"""

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from rich.console import Console

from training.metadata.compare import Result, comparison_table, parameters
from training.metadata.config import Stage, TrainingConfig, load_config
from training.metadata.pictures import LearningSet, read_learning_set
from training.metadata.teacher import Teacher, read_teacher
from training.own_log import exit_status, show_own_log
from training.train_metadata_network import Training, start_network

CLASS_WEIGHT_POWER, FOCAL_GAMMA = 0.25, 2.0

_log = logging.getLogger(__name__)


class Variant(NamedTuple):
    """One way: what the settings say otherwise, and whether each attribute gets a network of its own."""

    title: str
    changes: Mapping[str, Any] = MappingProxyType({})
    separate: bool = False
    taught: bool = False


def variants(with_teacher: bool) -> Iterator[Variant]:
    """Yield what is compared."""
    yield Variant("one network")
    yield Variant("separate networks", separate=True)
    yield Variant("last layer only", {"trained": "heads"})
    yield Variant(f"class weights, power {CLASS_WEIGHT_POWER:g}", {"class_weight_power": CLASS_WEIGHT_POWER})
    yield Variant(f"focal loss, gamma {FOCAL_GAMMA:g}", {"focal_gamma": FOCAL_GAMMA})
    if with_teacher:
        yield Variant("taught", taught=True)


class Comparison:
    """The pictures, read once, and the networks trained on them."""

    def __init__(
        self,
        config: TrainingConfig,
        data: LearningSet,
        teacher: Teacher | None,
        epochs: int,
        folders: tuple[Path, Path],
    ) -> None:
        """`folders` are those of the runs and of the downloads."""
        self._config, self._data, self._teacher, self._epochs = config, data, teacher, epochs
        self._runs_dir, self._downloads_dir = folders

    def results(self) -> Iterator[Result]:
        """Train and measure one variant after the other."""
        for number, variant in enumerate(variants(self._teacher is not None)):
            groups = [[name] for name in self._data.labels] if variant.separate else [list(self._data.labels)]
            runs = [self._run(variant, names, self._runs_dir / f"{number}-{'-'.join(names)}") for names in groups]
            fit_ms = 1000 * sum(run.progress.seconds for run in runs)
            scores = {name: score for run in runs for name, score in run.scores().items()}
            yield Result(variant.title, {"val": scores}, sum(parameters(run.network) for run in runs), fit_ms)

    def _run(self, variant: Variant, names: Sequence[str], run_dir: Path) -> Training:
        stage = Stage(edge_px=self._config.network.stages[-1].edge_px, epochs=self._epochs)
        changes = {"stages": [stage], **variant.changes}
        config = self._config.model_copy(update={"network": self._config.network.model_copy(update=changes)})
        data = self._data.only(names)
        network = start_network(config, data.labels, self._downloads_dir)
        training = Training(config, data, network, run_dir, self._teacher if variant.taught else None)
        _log.info("%s: %s", variant.title, ", ".join(names))
        training.run()
        return training


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; a user's error is one line and exit status 1."""
    parser = argparse.ArgumentParser(description="Compare ways to train the metadata network.")
    parser.add_argument("--config", type=Path, default=Path("training/configs/metadata.yaml"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=Path("var/runs/compare"), help="one run a network")
    parser.add_argument("--downloads", type=Path, default=Path("var/downloads"))
    parser.add_argument("--teacher", type=Path, nargs="+", help="folders of finished runs to learn from")
    parser.add_argument("--epochs", type=int, default=10, help="of each network")
    parser.add_argument("--share", type=float, default=1.0, help="of the train pictures, the same for each network")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args(argv)
    show_own_log()
    torch.set_num_threads(options.threads)

    def run() -> None:
        config = load_config(options.config)
        data = read_learning_set(config, options.data, config.network.preprocess)
        data = data.part(options.share, config.seed)
        teacher = read_teacher(options.teacher, data.labels) if options.teacher else None
        results = []
        for result in Comparison(config, data, teacher, options.epochs, (options.out, options.downloads)).results():
            results.append(result)
            Console(width=160).print(comparison_table(results, "val"))

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())
