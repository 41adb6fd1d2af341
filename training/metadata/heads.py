"""The metadata heads as a torch module: trained on features that are already there, and their temperature."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn import functional as F

from training.metadata.data import IGNORED
from training.metadata.features import View

Floats = NDArray[np.float32]
Classes = dict[str, NDArray[np.int64]]


class Recipe(BaseModel, extra="forbid", frozen=True):
    """One way to train the heads; the configuration lists several and the validation split chooses."""

    name: str
    views: Annotated[list[View], Field(min_length=1)]
    hidden: list[int] = []
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup: Annotated[float, Field(ge=0)] = 0.0  # alpha of the Beta distribution; 0: none. Zhang et al. 2018
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weight_power: Annotated[float, Field(ge=0, le=1)] = 0.0  # weight = frequency ** -power, mean 1 over the rows
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    batch: Annotated[int, Field(gt=0)] = 512
    epochs: Annotated[int, Field(gt=0)] = 30
    patience: Annotated[int, Field(gt=0)] = 8  # epochs without a better validation accuracy before it stops


@dataclass(frozen=True)
class Examples:
    """`views` is `(views, n, feature_dim)` float16, of the same `n` images; `classes` `(n,)` int64 by attribute."""

    views: Tensor
    classes: dict[str, Tensor]

    @classmethod
    def of(cls, matrices: list[Floats], classes: Classes) -> "Examples":
        """Stack the views of one set of images."""
        views = torch.stack([torch.from_numpy(matrix.astype(np.float16)) for matrix in matrices])
        return cls(views, {name: torch.from_numpy(numbers) for name, numbers in classes.items()})

    def __len__(self) -> int:
        return self.views.shape[1]


class HeadsNetwork(nn.Module):
    """Standardise, shared hidden layers with ReLU and dropout, one linear head an attribute."""

    mean: Tensor
    scale: Tensor

    def __init__(self, recipe: Recipe, mean: Tensor, scale: Tensor, label_counts: dict[str, int]) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        widths = [len(mean), *recipe.hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(recipe.dropout)
        self.heads = nn.ModuleDict({name: nn.Linear(widths[-1], count) for name, count in label_counts.items()})

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Return each head's logits `(n, labels)`."""
        hidden = self.dropout((features - self.mean) * self.scale)
        for layer in self.hidden:
            hidden = self.dropout(F.relu(layer(hidden)))
        return {name: head(hidden) for name, head in self.heads.items()}

    def tensors(self) -> dict[str, Floats]:
        """Return the tensors under the names that `lookalike.attributes` reads."""
        return {key.removeprefix("heads."): value.detach().numpy().copy() for key, value in self.state_dict().items()}


def train_heads(
    recipe: Recipe, train: Examples, val: Examples, label_counts: dict[str, int], seed: int
) -> tuple[HeadsNetwork, float]:
    """Return the network of the best epoch and its validation accuracy, the mean over the heads."""
    torch.manual_seed(seed)
    dice = np.random.default_rng(seed)
    plain = train.views[0].float()
    network = HeadsNetwork(recipe, plain.mean(0), 1 / (plain.std(0) + 1e-3), label_counts)
    del plain
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * math.ceil(len(train) / recipe.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    power = recipe.class_weight_power
    weights = {name: class_weights(train.classes[name], count, power) for name, count in label_counts.items()}
    best, best_state, waited = -1.0, network.state_dict(), 0
    for _ in range(recipe.epochs):
        _epoch(network, recipe, train, weights, optimizer, schedule, dice)
        accuracy = mean_accuracy(network, val)
        if accuracy > best:
            best, waited = accuracy, 0
            best_state = {key: value.clone() for key, value in network.state_dict().items()}
        else:
            waited += 1
        if waited >= recipe.patience:
            break
    network.load_state_dict(best_state)
    return network.eval(), best


def _epoch(
    network: HeadsNetwork,
    recipe: Recipe,
    train: Examples,
    weights: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    dice: np.random.Generator,
) -> None:
    network.train()
    for rows in torch.from_numpy(dice.permutation(len(train))).split(recipe.batch):
        view = torch.from_numpy(dice.integers(len(train.views), size=len(rows)))
        features = train.views[view, rows].float()
        partner = torch.from_numpy(dice.permutation(len(rows)))
        share = float(dice.beta(recipe.mixup, recipe.mixup)) if recipe.mixup else 1.0
        logits = network(share * features + (1 - share) * features[partner])
        loss = _loss(logits, train.classes, rows, weights, recipe) * share
        if share < 1:
            loss = loss + _loss(logits, train.classes, rows[partner], weights, recipe) * (1 - share)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _loss(
    logits: dict[str, Tensor], classes: dict[str, Tensor], rows: Tensor, weights: dict[str, Tensor], recipe: Recipe
) -> Tensor:
    smooth = recipe.label_smoothing
    losses = [
        F.cross_entropy(x, classes[name][rows], weights[name], ignore_index=IGNORED, label_smoothing=smooth)
        for name, x in logits.items()
    ]
    # A batch in which nothing is known of one attribute has the mean of no numbers there: NaN.
    return torch.stack(losses).nan_to_num().sum()


def class_weights(classes: Tensor, count: int, power: float) -> Tensor:
    """Return `(count,)` float32: each class's frequency to the power of `-power`, with a mean of 1 over the rows."""
    frequency = torch.bincount(classes[classes != IGNORED], minlength=count).clamp(min=1).float()
    weights = frequency**-power
    return weights * frequency.sum() / (weights * frequency).sum()


@torch.no_grad()
def mean_accuracy(network: HeadsNetwork, examples: Examples) -> float:
    """Return the share of known labels that the network gets right on the first view, averaged over the heads."""
    network.eval()
    logits = network(examples.views[0].float())
    shares = []
    for name, x in logits.items():
        known = examples.classes[name] != IGNORED
        if known.any():  # a head of which these examples know nothing has no say
            shares.append(float((x.argmax(1) == examples.classes[name])[known].float().mean()))
    return sum(shares) / max(1, len(shares))


def best_temperature(logits: Floats, classes: NDArray[np.int64]) -> float:
    """Return the temperature with the smallest negative log-likelihood on the known rows; Guo et al. 2017."""
    known = classes != IGNORED
    x, y = torch.from_numpy(logits[known]), torch.from_numpy(classes[known])
    grid = np.round(np.arange(0.3, 4.0, 0.01), 2)
    losses = [float(F.cross_entropy(x / float(t), y)) for t in grid]
    return float(grid[int(np.argmin(losses))])
