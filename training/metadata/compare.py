"""One network for all metadata heads against one for each, and the choices beside it, on the same features.

    python -m training.metadata.compare --network var/runs/metadata/network.safetensors --recipe mlp-1024

Only the last layers are trained here; what lies before them gives the features and stays as it is.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from lookalike.config import ModelSettings
from lookalike.errors import SetupError
from training.metadata.config import TrainingConfig, load_config
from training.metadata.data import Row, random_part
from training.metadata.heads import Examples, HeadsNetwork, Recipe, train_heads
from training.metadata.report import Score, score_of
from training.metadata.session import load_metadata_network
from training.metadata.sets import readable
from training.own_log import exit_status, show_own_log
from training.train_metadata import Training

CLASS_WEIGHT_POWERS = (0.0, 0.25)
HIDDEN = 1024  # beside a linear recipe

_log = logging.getLogger(__name__)


class Variant(NamedTuple):
    """One way to train the last layers: all heads on shared hidden layers, or each with layers of its own."""

    title: str
    recipe: Recipe
    separate: bool = False


@dataclass(frozen=True)
class Result:
    """What one variant gave: figures by split and attribute, its size and how long fitting took."""

    title: str
    scores: dict[str, dict[str, Score]]
    parameters: int
    fit_ms: float


def chosen_recipe(config: TrainingConfig, name: str | None) -> Recipe:
    """Return the recipe of this name, the last one for None.

    Raises:
        SetupError: when the configuration has no such recipe.
    """
    recipes = {recipe.name: recipe for recipe in config.recipes}
    if name is None:
        return config.recipes[-1]
    if name not in recipes:
        raise SetupError(f"no recipe {name!r}", allowed=list(recipes))
    return recipes[name]


def variants_of(recipe: Recipe) -> Iterator[Variant]:
    """Yield the recipe as it is, with separate networks, with each other class weight, and with the other depth."""
    yield Variant(f"{recipe.name}, one network", recipe)
    yield Variant(f"{recipe.name}, separate networks", recipe, separate=True)
    for power in CLASS_WEIGHT_POWERS:
        if power != recipe.class_weight_power:
            yield Variant(f"class_weight_power {power:g}", recipe.model_copy(update={"class_weight_power": power}))
    hidden = [] if recipe.hidden else [HIDDEN]
    title = f"hidden layer of {HIDDEN}" if hidden else "linear"
    yield Variant(title, recipe.model_copy(update={"hidden": hidden}))


class Comparison:
    """The splits as examples, read once, and the variants trained on them."""

    def __init__(self, training: Training, recipe: Recipe, share: float = 1.0) -> None:
        """Get all features that the recipe's views need; of the train split, learn from a random `share`."""
        self._seed, self._recipe = training.config.seed, recipe
        self._label_counts = {name: len(labels) for name, labels in training.labels.items()}
        self._train = part_of(training.examples(recipe), share, self._seed)
        self._parts = {"val": training.val, "test": readable(training.catalogue.split("test"))}
        self._examples = {split: training.plain_examples(part) for split, part in self._parts.items()}

    def results(self) -> Iterator[Result]:
        """Train and measure one variant after the other."""
        for variant in variants_of(self._recipe):
            result = self._result(variant)
            accuracy = np.mean([score.accuracy for score in result.scores["val"].values()])
            _log.info(
                "%s: fitted in %.0f ms, mean accuracy on val %.2f %%", result.title, result.fit_ms, 100 * accuracy
            )
            yield result

    def _result(self, variant: Variant) -> Result:
        groups = [[name] for name in self._label_counts] if variant.separate else [list(self._label_counts)]
        start = time.perf_counter()
        networks = [self._fit(variant.recipe, names) for names in groups]
        fit_ms = 1000 * (time.perf_counter() - start)
        scores = {split: self._scores(networks, split) for split in self._parts}
        return Result(variant.title, scores, sum(parameters(network) for network in networks), fit_ms)

    def _fit(self, recipe: Recipe, names: Sequence[str]) -> HeadsNetwork:
        counts = {name: self._label_counts[name] for name in names}
        # The best epoch is chosen by the heads at hand: a network of its own may stop when its attribute is best.
        train, val = only(self._train, names), only(self._examples["val"], names)
        return train_heads(recipe, train, val, counts, self._seed)[0]

    def _scores(self, networks: Sequence[HeadsNetwork], split: str) -> dict[str, Score]:
        parts = [head_scores(network, self._examples[split], self._parts[split].rows) for network in networks]
        return {name: score for part in parts for name, score in part.items()}


def part_of(examples: Examples, share: float, seed: int) -> Examples:
    """Return a random share of the examples.

    Raises:
        SetupError: for a share that is not above 0 and at most 1.
    """
    kept = torch.from_numpy(random_part(len(examples), share, seed))
    return Examples(examples.views[:, kept], {name: classes[kept] for name, classes in examples.classes.items()})


def only(examples: Examples, names: Sequence[str]) -> Examples:
    """Return the same features with the labels of some attributes."""
    return Examples(examples.views, {name: examples.classes[name] for name in names})


def parameters(network: nn.Module) -> int:
    """Return how many numbers are learned."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def head_scores(network: HeadsNetwork, examples: Examples, rows: Sequence[Row]) -> dict[str, Score]:
    """Return the score of each head whose attribute the rows know; a label without a head counts as wrong."""
    scores = {}
    for name, logits in network.eval()(examples.views[0].float()).items():
        known = np.array([bool(row.values[name]) for row in rows])
        guessed, classes = logits.argmax(1).numpy()[known], examples.classes[name].numpy()[known]
        if known.any():
            scores[name] = score_of(guessed, classes)
    return scores


def comparison_table(results: Sequence[Result], split: str) -> Table:
    """Return a table of one split, one line a variant: accuracy / macro-F1 of each attribute in per cent."""
    names = list(results[0].scores[split])
    table = Table(title=f"{split}: accuracy / macro-F1, %")
    for column in ("variant", *names, "mean", "parameters", "fit, ms"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for result in results:
        scores = [result.scores[split][name] for name in names]
        mean = Score(*(sum(values) / len(scores) for values in zip(*scores, strict=True)))
        cells = [f"{100 * score.accuracy:.1f} / {100 * score.macro_f1:.1f}" for score in (*scores, mean)]
        table.add_row(result.title, *cells, f"{result.parameters:,}", f"{result.fit_ms:,.0f}")
    return table


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", type=Path, default=Path("training/configs/metadata.yaml"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")))
    parser.add_argument("--network", type=Path, default=Path("model_store/metadata_creator/network.safetensors"))
    parser.add_argument("--cache", type=Path, default=Path("var/cache/metadata"), help="keeps features; may be deleted")
    parser.add_argument("--recipe", help="one of the configuration's; the last one unless named")
    parser.add_argument("--share", type=float, default=1.0, help="of the train pictures, the same for each variant")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Compare the variants and print one table a split."""
    torch.set_num_threads(arguments.threads)
    config = load_config(arguments.config)
    recipe = chosen_recipe(config, arguments.recipe)
    settings = ModelSettings(threads=arguments.threads)
    source = load_metadata_network(arguments.network, config.network.preprocess, settings)
    training = Training(config, arguments.data, source, arguments.cache)
    results = list(Comparison(training, recipe, arguments.share).results())
    for split in results[0].scores:
        console.print(comparison_table(results, split))


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; a user's error is one line and exit status 1."""
    show_own_log("%(levelname)s %(message)s")
    arguments = _arguments(argv)
    return exit_status(lambda: run(arguments, Console(width=160)))


if __name__ == "__main__":
    sys.exit(main())
