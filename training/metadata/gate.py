"""The gate of the metadata heads: one logistic unit that tells the goods they know from pictures of anything else."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Gate:
    """A logistic unit on standardised features, and the smallest score that lets a crop pass."""

    weight: Floats
    bias: Floats
    threshold: float

    def tensors(self) -> dict[str, Floats]:
        """Return the tensors under the names that `lookalike.attributes` reads."""
        return {"gate.weight": self.weight, "gate.bias": self.bias}


def fit_gate(known: Sequence[Floats], other: Sequence[Floats], check: Floats, accept: float, strength: float) -> Gate:
    """Fit the gate on standardised features; outlier exposure, Hendrycks et al. 2019.

    Each array in `known` and in `other` is one source `(n, d)` and weighs as much as its neighbours, so that no large
    source, and no look that one source alone has, decides. `strength` is the inverse of the L2 penalty. The threshold
    lets the share `accept` of `check` pass.
    """
    sources = [*known, *other]
    kinds = np.repeat([1] * len(known) + [0] * len(other), [len(s) for s in sources])
    weights = np.concatenate([_weights(known), _weights(other)])
    model = LogisticRegression(C=strength, max_iter=1000).fit(np.concatenate(sources), kinds, sample_weight=weights)
    weight, bias = model.coef_[0].astype(np.float32), model.intercept_.astype(np.float32)
    threshold = float(np.quantile(1 / (1 + np.exp(-(check @ weight + bias))), 1 - accept))
    return Gate(weight, bias, threshold)


def _weights(sources: Sequence[Floats]) -> NDArray[np.float64]:
    """Return one weight a row; those of a source sum to the same, those of all to 10,000."""
    return np.concatenate([np.full(len(s), 10_000 / len(sources) / len(s)) for s in sources])
