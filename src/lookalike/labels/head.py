"""A trained task: the head on the embedder's features, its labels, its calibration and when it is sure."""

from pathlib import Path
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lookalike.errors import InvalidRequest, SetupError, wrong_fields
from lookalike.model_store import sha256_of
from lookalike.preprocessing import Preprocess

HEAD_FILE = "head.safetensors"
CARD_FILE = "labels.json"

Floats = NDArray[np.float32]
Tensors = dict[str, Floats]


class LabelCard(BaseModel, extra="forbid", frozen=True):
    """`labels.json`, which travels with `head.safetensors`; `labels` is in the order of the task file."""

    name: str
    version: str
    labels: Annotated[list[str], Field(min_length=2)]
    threshold: Annotated[float, Field(ge=0, le=1)]  # the smallest score that counts as sure
    temperature: Annotated[float, Field(gt=0)]  # divides the logits: Guo et al. 2017
    layers: Annotated[int, Field(ge=1)]
    embedder: str  # the fingerprint of the embedder on whose features the head was fitted
    feature_dim: Annotated[int, Field(gt=0)]
    preprocess: Preprocess  # the embedder's, with the task's own resize mode
    head_sha256: str


def head_logits(tensors: Tensors, layers: int, features: Floats) -> Floats:
    """Return the logits `(n, labels)` of `features` `(n, feature_dim)`: standardised, then linear layers with ReLU."""
    hidden = (features - tensors["mean"]) * tensors["scale"]
    for layer in range(layers):
        hidden = hidden @ tensors[f"layer.{layer}.weight"].T + tensors[f"layer.{layer}.bias"]
        if layer < layers - 1:
            hidden = np.maximum(hidden, 0)
    return hidden


def softmax(logits: Floats) -> Floats:
    """Return the scores `(n, labels)`, each row summing to 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores: Floats = powers / powers.sum(axis=1, keepdims=True)
    return scores


class LabelHead:
    """A loaded head."""

    def __init__(self, card: LabelCard, tensors: Tensors) -> None:
        self.card, self._tensors = card, tensors

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load the head in `folder`: a task's training output, or its model folder.

        Raises:
            SetupError: for a missing, malformed or altered file.
        """
        card = read_card(folder)
        found = sha256_of(folder / HEAD_FILE)
        if found != card.head_sha256:
            raise SetupError(f"{folder / HEAD_FILE} has sha256 {found}, {CARD_FILE} says {card.head_sha256}")
        try:
            tensors = load_file(folder / HEAD_FILE)
        except (SafetensorError, OSError) as error:
            raise SetupError(f"{folder / HEAD_FILE} cannot be read: {error}") from error
        _check_shapes(card, tensors, folder / HEAD_FILE)
        return cls(card, tensors)

    def scores(self, features: Floats) -> Floats:
        """Return calibrated scores `(n, labels)` for `features` `(n, feature_dim)`.

        Raises:
            InvalidRequest: for features of another shape.
        """
        if features.ndim != 2 or features.shape[1] != self.card.feature_dim:
            raise InvalidRequest(f"features have shape {features.shape}", allowed=f"(n, {self.card.feature_dim})")
        logits = head_logits(self._tensors, self.card.layers, features)
        return softmax(logits / np.float32(self.card.temperature))


def read_card(folder: Path) -> LabelCard:
    """Return the card of the trained task in `folder`.

    Raises:
        SetupError: when it is missing or malformed.
    """
    try:
        return LabelCard.model_validate_json((folder / CARD_FILE).read_bytes())
    except OSError as error:
        raise SetupError(
            f"{folder} holds no trained task: {CARD_FILE}: {error.strerror}", allowed="lookalike labels train TASK.yaml"
        ) from error
    except ValidationError as error:
        wrong = wrong_fields(error)
        raise SetupError(f"{folder / CARD_FILE}: {wrong}") from error


def _check_shapes(card: LabelCard, tensors: Tensors, path: Path) -> None:
    width = card.feature_dim
    expected: dict[str, tuple[int, ...]] = {"mean": (width,), "scale": (width,)}
    for layer in range(card.layers):
        bias = tensors.get(f"layer.{layer}.bias")
        out = len(card.labels) if layer == card.layers - 1 else (0 if bias is None else len(bias))
        expected |= {f"layer.{layer}.weight": (out, width), f"layer.{layer}.bias": (out,)}
        width = out
    found = {name: tensor.shape for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise SetupError(f"{path}: {name!r} has shape {found.get(name)}, not {expected.get(name)}")
