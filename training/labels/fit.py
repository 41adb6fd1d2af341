"""Fits a task's head on features: cross-validated penalty, calibrated temperature, class weights, a fixed seed."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from lookalike.errors import SetupError
from lookalike.labels.head import Floats, Tensors, head_logits
from lookalike.labels.task import TaskSettings

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # L2 on the weights, beside the mean cross-entropy
_MAX_STEPS = 200
_EPSILON = 1e-3  # keeps a feature that never varies from being blown up

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Fitted:
    """A head; `out_of_fold` `(n, labels)` are the logits of each training image by a head that did not see it."""

    tensors: Tensors
    layers: int
    temperature: float
    penalty: float
    out_of_fold: Floats


class _Problem(NamedTuple):
    features: Floats
    classes: Numbers
    labels: int
    settings: TaskSettings


def fit_head(features: Floats, classes: Numbers, labels: int, settings: TaskSettings) -> Fitted:
    """Fit a head on `features` `(n, feature_dim)` of `classes` `(n,)`, each below `labels`.

    The penalty with the smallest out-of-fold loss is taken, the temperature fitted on the same out-of-fold logits, and
    the head then fitted on all images.

    Raises:
        SetupError: when a label has fewer images than there are folds.
    """
    fewest = int(np.bincount(classes, minlength=labels).min())
    if fewest < 2:
        raise SetupError(f"a label has {fewest} usable images", allowed="two or more a label")
    problem = _Problem(features, classes, labels, settings)
    candidates = {penalty: _out_of_fold(problem, penalty, min(settings.folds, fewest)) for penalty in PENALTIES}
    penalty = min(candidates, key=lambda one: _loss(candidates[one], classes, settings))
    tensors, layers = _fit(problem, np.arange(len(classes)), penalty)
    return Fitted(tensors, layers, best_temperature(candidates[penalty], classes), penalty, candidates[penalty])


def best_temperature(logits: Floats, classes: Numbers) -> float:
    """Return the temperature with the smallest negative log-likelihood; Guo et al. 2017."""
    x, y = torch.from_numpy(logits), torch.from_numpy(classes)
    grid = np.round(np.geomspace(0.2, 5.0, 200), 4)
    return float(min(grid, key=lambda t: float(F.cross_entropy(x / float(t), y))))


def _out_of_fold(problem: _Problem, penalty: float, folds: int) -> Floats:
    logits = np.empty((len(problem.classes), problem.labels), np.float32)
    split = StratifiedKFold(folds, shuffle=True, random_state=problem.settings.seed)
    for train, held_out in split.split(problem.features, problem.classes):
        tensors, layers = _fit(problem, train, penalty)
        logits[held_out] = head_logits(tensors, layers, problem.features[held_out])
    return logits


def _class_weights(classes: Numbers, labels: int, power: float) -> Floats:
    """Return the weight of each label: with power 1 all labels count the same, with 0 all images."""
    frequency = np.maximum(np.bincount(classes, minlength=labels), 1).astype(np.float64)
    weights = frequency**-power
    return np.asarray(weights * frequency.sum() / (weights * frequency).sum(), np.float32)


def _loss(logits: Floats, classes: Numbers, settings: TaskSettings) -> float:
    weights = torch.from_numpy(_class_weights(classes, logits.shape[1], settings.class_weight_power))
    return float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(classes), weights))


def _fit(problem: _Problem, rows: NDArray[np.int64], penalty: float) -> tuple[Tensors, int]:
    """Return the head's tensors and number of layers, by full-batch L-BFGS: exact for the linear head."""
    settings, x = problem.settings, problem.features[rows]
    mean, scale = x.mean(axis=0), 1 / (x.std(axis=0) + np.float32(_EPSILON))
    reduced, basis = _rotated((x - mean) * scale)
    inputs, classes = torch.from_numpy(reduced), torch.from_numpy(problem.classes[rows])
    weights = torch.from_numpy(_class_weights(problem.classes[rows], problem.labels, settings.class_weight_power))
    network = _network(reduced.shape[1], problem.labels, settings)
    matrices = [layer.weight for layer in network if isinstance(layer, torch.nn.Linear)]
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=_MAX_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(network(inputs), classes, weights)
        value = value + penalty / 2 * torch.stack([matrix.square().sum() for matrix in matrices]).sum()
        value.backward()
        return value

    optimizer.step(loss)
    layers = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
    tensors = {"mean": mean.astype(np.float32), "scale": scale.astype(np.float32)}
    for i, layer in enumerate(layers):
        weight = layer.weight.detach().numpy()
        tensors[f"layer.{i}.weight"] = np.ascontiguousarray(weight @ basis if i == 0 else weight)
        tensors[f"layer.{i}.bias"] = layer.bias.detach().numpy().copy()
    return tensors, len(layers)


def _rotated(x: Floats) -> tuple[Floats, Floats]:
    """Return `x` `(n, d)` in the coordinates of the space that its rows span, and that space's basis `(r, d)`.

    With an L2 penalty the first layer's best weights lie in that space, so fewer images than features cost less.
    """
    if len(x) >= x.shape[1]:
        return x, np.eye(x.shape[1], dtype=np.float32)
    _, _, basis = np.linalg.svd(x, full_matrices=False)
    return np.ascontiguousarray(x @ basis.T), basis


def _network(width: int, labels: int, settings: TaskSettings) -> torch.nn.Sequential:
    torch.manual_seed(settings.seed)
    if settings.head == "linear":
        layer = torch.nn.Linear(width, labels)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        return torch.nn.Sequential(layer)
    return torch.nn.Sequential(
        torch.nn.Linear(width, settings.hidden), torch.nn.ReLU(), torch.nn.Linear(settings.hidden, labels)
    )
