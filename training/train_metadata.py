"""Fits the metadata heads on their network's features and writes them, calibrated, with what they need to be served.

    python -m training.train_metadata --network var/runs/metadata/network.safetensors --test

reads the data folder ($LOOKALIKE_DATA, else ../shared/data) and the network that `training.train_metadata_network`
wrote, and writes network, `heads.safetensors` and `metadata.json` to model_store/metadata_creator.
"""

import argparse
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.numpy import save

from lookalike.attributes import (
    CARD_FILE,
    HEADS_FILE,
    AttributeCard,
    Describer,
    MetadataCard,
    attribute_scores,
    head_logits,
    powered,
    standardised,
)
from lookalike.config import ModelSettings
from lookalike.errors import SetupError
from training.metadata.config import TrainingConfig, load_config
from training.metadata.data import class_numbers, label_lists, majority_mapping
from training.metadata.features import FeatureSource, View
from training.metadata.gate import Gate, fit_gate
from training.metadata.heads import Examples, HeadsNetwork, Recipe, best_temperature, train_heads
from training.metadata.network import NETWORK_FILE
from training.metadata.report import Figures, figures_table, measure, sure_threshold
from training.metadata.session import load_metadata_network
from training.metadata.sets import Catalogue, Labelled, other_pictures, readable, user_photos
from training.own_log import exit_status, show_own_log

Floats = NDArray[np.float32]
Tensors = dict[str, Floats]

_log = logging.getLogger(__name__)


class Training:
    """One run: the data as features, the heads and the gate fitted on them, the files written."""

    def __init__(self, config: TrainingConfig, data_dir: Path, source: FeatureSource, cache_dir: Path) -> None:
        """Read the data and get all features that fitting needs.

        Raises:
            SetupError: for data that is missing or wrong.
        """
        self.config, self.source = config, source
        self._data = (config, data_dir, source, cache_dir)
        self.catalogue = Catalogue(*self._data)
        self.train, self.val = self.catalogue.split("train"), readable(self.catalogue.split("val"))
        self.hires = self.catalogue.hires("train")
        self.labels = label_lists(self.train.rows, config.heads, config.min_count)
        for name, labels in self.labels.items():
            if len(labels) < 2:
                raise SetupError(f"{name}: {len(labels)} labels have {config.min_count} train rows; a head needs two")
        self.own_photos, self.held_out_photos = user_photos(*self._data)

    def best_heads(self) -> tuple[Recipe, HeadsNetwork]:
        """Return the recipe, and the heads it gave, with the best mean accuracy on val."""
        val, results = self.plain_examples(self.val), []
        counts = {name: len(labels) for name, labels in self.labels.items()}
        for recipe in self.config.recipes:
            results.append((*train_heads(recipe, self.examples(recipe), val, counts, self.config.seed), recipe))
            _log.info("recipe %s: mean accuracy of the heads on val %.2f %%", recipe.name, 100 * results[-1][1])
        network, _, recipe = max(results, key=lambda result: result[1])
        return recipe, network

    def examples(self, recipe: Recipe) -> Examples:
        """Return the train split in the recipe's views; behind it the copies, which have but one view."""
        views = [self._view(view) for view in recipe.views]
        seen = np.isfinite([view.features[:, 0] for view in views]).all(axis=0)
        copies = [self.hires] * self.config.copies.hires + [self.own_photos] * self.config.copies.user_photos
        rows = [row for part in (self.train.where(seen), *copies) for row in part.rows]
        matrices = [np.concatenate([self._powered(part) for part in (view.where(seen), *copies)]) for view in views]
        return Examples.of(matrices, class_numbers(rows, self.labels))

    def plain_examples(self, part: Labelled) -> Examples:
        """Return one part as it is: what the heads are validated on."""
        return Examples.of([self._powered(part)], class_numbers(part.rows, self.labels))

    def _powered(self, part: Labelled) -> Floats:
        return powered(part.features, self.config.feature_power)

    def _view(self, view: View) -> Labelled:
        return self.train if view == "plain" else self.catalogue.split("train", view)

    def gate(self, card: MetadataCard, tensors: Tensors) -> Gate:
        """Fit the gate: catalogue pictures and half of the user photos against pictures of anything else."""
        aim = self.config.gate
        jittered = readable(self._view("jitter"))
        known = [readable(self.train), jittered, self.hires, self.own_photos]
        other = other_pictures(*self._data, "train")
        seen = [standardised(tensors, card, part.features) for part in known]
        unseen = [standardised(tensors, card, part.features) for part in other.values()]
        return fit_gate(seen, unseen, standardised(tensors, card, self.val.features), aim.accept, aim.strength)

    def describer(self, network: HeadsNetwork) -> tuple[MetadataCard, Tensors]:
        """Return card and tensors, the numbers already rounded to float16 as they will be served."""
        tensors = _rounded(network.tensors())
        card = self._calibrated(self._card(len(network.hidden)), tensors)
        gate = self.gate(card, tensors)
        tensors |= _rounded(gate.tensors())
        sha256 = hashlib.sha256(_file_bytes(tensors)).hexdigest()
        return card.model_copy(update={"gate_threshold": gate.threshold, "heads_sha256": sha256}), tensors

    def _card(self, hidden_layers: int) -> MetadataCard:
        return MetadataCard(
            name="metadata_creator",
            version=self.config.version,
            feature_fingerprint=self.source.fingerprint,
            feature_dim=self.train.features.shape[1],
            feature_power=self.config.feature_power,
            heads_sha256="",
            hidden_layers=hidden_layers,
            gate_threshold=0,
            attributes=[self._attribute(aim.name, aim.mapped_from) for aim in self.config.attributes],
            product_display_name=self.config.product_display_name,
        )

    def _attribute(self, name: str, mapped_from: str | None) -> AttributeCard:
        if mapped_from is None:
            return self._attribute_of(name, self.labels[name])
        mapping = majority_mapping(self.train.rows, mapped_from, name, self.labels[mapped_from])
        labels = list(dict.fromkeys(mapping.values()))
        card = self._attribute_of(name, labels)
        return card.model_copy(update={"mapped_from": mapped_from, "mapping": mapping})

    def _attribute_of(self, name: str, labels: list[str]) -> AttributeCard:
        return AttributeCard(name=name, labels=labels, threshold=self.config.least_score)

    def _calibrated(self, card: MetadataCard, tensors: Tensors) -> MetadataCard:
        """Set temperatures, then thresholds, by val."""
        logits = head_logits(tensors, card, self.val.features)
        classes = class_numbers(self.val.rows, {c.name: c.labels for c in card.attributes})
        warm = [c.model_copy(update=_temperature(c, logits, classes)) for c in card.attributes]
        scores = attribute_scores(card.model_copy(update={"attributes": warm}), logits)
        aims = {aim.name: aim.precision for aim in self.config.attributes}
        final = []
        for attribute in warm:
            labelled = np.array([bool(row.values[attribute.name]) for row in self.val.rows])
            score = scores[attribute.name][labelled]
            right = score.argmax(axis=1) == classes[attribute.name][labelled]
            threshold = sure_threshold(score.max(axis=1), right, aims[attribute.name], self.config.least_score)
            final.append(attribute.model_copy(update={"threshold": round(threshold, 4)}))
        return card.model_copy(update={"attributes": final})

    def figures(self, describer: Describer, with_test: bool) -> dict[str, dict[str, Figures]]:
        """Return the figures on val and, when asked for, on everything that is held out."""
        sets = {"val": self.val, "val, higher resolution": self.catalogue.hires("val")}
        if with_test:
            sets["test"] = readable(self.catalogue.split("test"))
            sets["test, higher resolution"] = self.catalogue.hires("test")
            sets["user photos"] = self.held_out_photos
        return {title: measure(describer, part.rows, part.features) for title, part in sets.items()}

    def gate_figures(self, describer: Describer) -> dict[str, tuple[int, float, float]]:
        """Return for each held-out set: pictures, share that passes the gate, share with a sure article type."""
        fashion = {"fashion test": readable(self.catalogue.split("test")), "user photos": self.held_out_photos}
        sets = fashion | other_pictures(*self._data, "test")
        return {title: (len(part.rows), *_passing(describer, part.features)) for title, part in sets.items()}


def _temperature(
    card: AttributeCard, logits: Mapping[str, Floats], classes: Mapping[str, NDArray[np.int64]]
) -> dict[str, float]:
    return {} if card.mapped_from else {"temperature": best_temperature(logits[card.name], classes[card.name])}


def _passing(describer: Describer, features: Floats) -> tuple[float, float]:
    noun = describer.card.product_display_name.noun
    sure = [a.sure for d in describer.describe(features) for a in d.attributes if a.name == noun]
    return float(describer.known(features).mean()), float(np.mean(sure))


def _rounded(tensors: Tensors) -> Tensors:
    return {name: tensor.astype(np.float16).astype(np.float32) for name, tensor in tensors.items()}


def _file_bytes(tensors: Tensors) -> bytes:
    return save({name: tensor.astype(np.float16) for name, tensor in sorted(tensors.items())})


def write_model(card: MetadataCard, tensors: Tensors, out_dir: Path) -> None:
    """Write `heads.safetensors` (float16) and `metadata.json`."""
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / HEADS_FILE).write_bytes(_file_bytes(tensors))
    text = json.dumps(card.model_dump(), indent=1, ensure_ascii=False)
    (out_dir / CARD_FILE).write_text(text + "\n", encoding="utf-8")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", type=Path, default=Path("training/configs/metadata.yaml"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LOOKALIKE_DATA", "../shared/data")))
    parser.add_argument("--network", type=Path, help="its weights; those that lie in --out unless another is named")
    parser.add_argument("--cache", type=Path, default=Path("var/cache/metadata"), help="keeps features; may be deleted")
    parser.add_argument("--out", type=Path, default=Path("model_store/metadata_creator"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--test", action="store_true", help="also print the figures on what is held out")
    return parser.parse_args(argv)


def run(arguments: argparse.Namespace, console: Console) -> None:
    """Train, write, then measure what was written, through the code that serves it."""
    torch.set_num_threads(arguments.threads)
    config, weights = load_config(arguments.config), arguments.network or arguments.out / NETWORK_FILE
    source = load_metadata_network(weights, config.network.preprocess, ModelSettings(threads=arguments.threads))
    training = Training(config, arguments.data, source, arguments.cache)
    recipe, network = training.best_heads()
    write_model(*training.describer(network), arguments.out)
    if weights != arguments.out / NETWORK_FILE:
        shutil.copyfile(weights, arguments.out / NETWORK_FILE)
    describer = Describer.load(arguments.out, ModelSettings())
    console.print(f"recipe {recipe.name}, written to {arguments.out}; network {describer.feature_fingerprint}")
    for title, figures in training.figures(describer, arguments.test).items():
        console.print(figures_table(title, figures))
    if arguments.test:
        for title, (count, passed, sure) in training.gate_figures(describer).items():
            console.print(f"{title}: {count} pictures, {passed:.1%} pass the gate, {sure:.1%} have a sure article type")


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line; a user's error is one line and exit status 1."""
    show_own_log("%(levelname)s %(message)s")
    arguments = _arguments(argv)
    return exit_status(lambda: run(arguments, Console(width=120)))


if __name__ == "__main__":
    sys.exit(main())
