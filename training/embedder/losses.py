"""The losses by name, each of pytorch-metric-learning, with the miner that belongs to it, for each set apart."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn

from lookalike.errors import SetupError
from training.embedder.config import LossSettings

Arguments = dict[str, float | int]


class MinedLoss(nn.Module):
    """A loss over the pairs or triplets that a miner picks; all of them without one."""

    def __init__(self, loss: nn.Module, miner: nn.Module | None = None) -> None:
        super().__init__()
        self.loss, self.miner = loss, miner

    def forward(self, embeddings: Tensor, classes: Tensor) -> Tensor:
        """Return the mean loss of `(n, dim)` embeddings of `(n,)` classes."""
        mined = None if self.miner is None else self.miner(embeddings, classes)
        loss: Tensor = self.loss(embeddings, classes, mined)
        return loss


def _random_triplet(classes: int, dim: int, arguments: Arguments) -> MinedLoss:
    # A few triplets an anchor, drawn blindly: all of them would be no random sample.
    margin = arguments.get("margin", 0.1)
    triplets = int(arguments.get("triplets_per_anchor", 4))
    return MinedLoss(losses.TripletMarginLoss(margin=margin, triplets_per_anchor=triplets))


def _hard_triplet(classes: int, dim: int, arguments: Arguments) -> MinedLoss:
    return MinedLoss(losses.TripletMarginLoss(margin=arguments.get("margin", 0.1)), miners.BatchHardMiner())


def _semihard_triplet(classes: int, dim: int, arguments: Arguments) -> MinedLoss:
    margin = arguments.get("margin", 0.1)
    miner = miners.TripletMarginMiner(margin=margin, type_of_triplets="semihard")
    return MinedLoss(losses.TripletMarginLoss(margin=margin), miner)


def _multi_similarity(classes: int, dim: int, arguments: Arguments) -> MinedLoss:
    given = {"alpha": 2.0, "beta": 50.0, "base": 0.5} | arguments
    miner = miners.MultiSimilarityMiner(epsilon=given.pop("epsilon", 0.1))
    return MinedLoss(losses.MultiSimilarityLoss(**given), miner)


def _supervised_contrastive(classes: int, dim: int, arguments: Arguments) -> MinedLoss:
    return MinedLoss(losses.SupConLoss(**({"temperature": 0.1} | arguments)))


def _proxy_anchor(classes: int, dim: int, arguments: Arguments) -> MinedLoss:
    return MinedLoss(losses.ProxyAnchorLoss(classes, dim, **({"margin": 0.1, "alpha": 32} | arguments)))


def _sub_center_arcface(classes: int, dim: int, arguments: Arguments) -> MinedLoss:
    given: dict[str, Any] = {"margin": 28.6, "scale": 64, "sub_centers": 3} | arguments
    return MinedLoss(losses.SubCenterArcFaceLoss(num_classes=classes, embedding_size=dim, **given))


LOSSES: dict[str, Callable[[int, int, Arguments], MinedLoss]] = {
    "triplet-random": _random_triplet,
    "triplet-hard": _hard_triplet,
    "triplet-semihard": _semihard_triplet,
    "multi-similarity": _multi_similarity,
    "supervised-contrastive": _supervised_contrastive,
    "proxy-anchor": _proxy_anchor,
    "sub-center-arcface": _sub_center_arcface,
}


class SetLosses(nn.Module):
    """One loss for each set over the set's own classes; proxies are learned with the network."""

    def __init__(self, settings: LossSettings, class_counts: Mapping[str, int], dim: int) -> None:
        """Raises SetupError for an unknown loss or argument."""
        super().__init__()
        if settings.name not in LOSSES:
            raise SetupError(f"loss {settings.name!r} is unknown", allowed=sorted(LOSSES))
        try:
            made = [LOSSES[settings.name](count, dim, dict(settings.arguments)) for count in class_counts.values()]
        except TypeError as error:
            raise SetupError(f"loss {settings.name}: {error}") from error
        self._names = list(class_counts)
        self._losses = nn.ModuleList(made)
        self.keep_weight, self._free = settings.keep_weight, frozenset(settings.free_sets)
        if unknown := self._free - set(class_counts):
            raise SetupError(f"loss.free_sets: no set {sorted(unknown)}", allowed=sorted(class_counts))

    def forward(
        self, embeddings: Tensor, classes: Tensor, sets: list[str], plain: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return each set's loss for `(n, dim)` embeddings, `(n,)` class numbers and set names.

        With `plain` `(n, c)`, the L2-normalised untrained features, also `keep`, the weighted change of similarities.
        """
        parts = {}
        for name, loss in zip(self._names, self._losses, strict=True):
            rows = [row for row, of in enumerate(sets) if of == name]
            if rows:
                parts[name] = loss(embeddings[rows], classes[rows])
        if plain is not None and self.keep_weight:
            change = embeddings @ embeddings.T - plain @ plain.T
            parts["keep"] = self.keep_weight * change[self._kept_pairs(sets).to(change.device)].square().mean()
        return parts

    def _kept_pairs(self, sets: list[str]) -> Tensor:
        """Return `(n, n)` bool: every pair but those within one free set."""
        numbers = torch.tensor([self._names.index(name) for name in sets])
        free = torch.tensor([name in self._free for name in sets])
        return ~((numbers[:, None] == numbers[None, :]) & free[:, None])
