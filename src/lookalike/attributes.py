"""What a crop is: the metadata heads on their network's features, and how their scores become attributes."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file

from lookalike.config import ModelSettings
from lookalike.errors import InvalidRequest, SetupError, wrong_fields
from lookalike.schemas import Attribute, Description

HEADS_FILE = "heads.safetensors"
CARD_FILE = "metadata.json"

Floats = NDArray[np.float32]
Tensors = dict[str, Floats]
Scores = dict[str, Floats]


class AttributeCard(BaseModel, extra="forbid", frozen=True):
    """One attribute: its own head, or the summed scores of another attribute's labels (`mapped_from`, `mapping`)."""

    name: str
    labels: Annotated[list[str], Field(min_length=1)]
    threshold: Annotated[float, Field(ge=0, le=1)]  # the smallest score that counts as sure
    temperature: Annotated[float, Field(gt=0)] = 1.0  # divides the logits: Guo et al. 2017
    mapped_from: str | None = None
    mapping: dict[str, str] = {}


class NameRules(BaseModel, extra="forbid", frozen=True):
    """How a product_display_name is put together; nothing is named while `noun` is not sure."""

    noun: str  # the attribute that gives the last word
    before: list[str]  # the attributes in front of it, in order; those that are not sure are left out
    words: dict[str, dict[str, str]] = {}  # attribute -> label -> the words for it; "" leaves the label out
    unless: dict[str, dict[str, list[str]]] = {}  # attribute -> other attribute -> labels beside which it is left out


class MetadataCard(BaseModel, extra="forbid", frozen=True):
    """`metadata.json`, which travels with `heads.safetensors`; `attributes` is in the order of the reply."""

    name: str
    version: str
    feature_fingerprint: str  # of the network on whose features the heads were fitted
    feature_dim: Annotated[int, Field(gt=0)]
    feature_power: Annotated[float, Field(gt=0, le=1)] = 1.0
    heads_sha256: str
    hidden_layers: Annotated[int, Field(ge=0)]
    gate_threshold: Annotated[float, Field(ge=0, le=1)]  # below it the crop is of no kind that the heads know
    attributes: Annotated[list[AttributeCard], Field(min_length=1)]
    product_display_name: NameRules

    @model_validator(mode="after")
    def _references_exist(self) -> Self:
        cards = {card.name: card for card in self.attributes}
        for card in self.attributes:
            if len(set(card.labels)) < len(card.labels):
                raise ValueError(f"{card.name}: a label is listed twice")
            if card.mapped_from is None:
                continue
            source = cards.get(card.mapped_from)
            if source is None or source.mapped_from is not None:
                raise ValueError(f"{card.name}: mapped_from {card.mapped_from!r} is no attribute with a head")
            if set(card.mapping) != set(source.labels) or not set(card.mapping.values()) <= set(card.labels):
                raise ValueError(f"{card.name}: mapping must send each label of {source.name} to a label of its own")
        rules = self.product_display_name
        unknown = {rules.noun, *rules.before, *rules.words, *rules.unless}.difference(cards)
        if unknown:
            raise ValueError(f"product_display_name: unknown attributes {sorted(unknown)}")
        return self

    @property
    def heads(self) -> list[AttributeCard]:
        """The attributes that have a head of their own."""
        return [card for card in self.attributes if card.mapped_from is None]


def powered(features: Floats, power: float) -> Floats:
    """Return `sign(x) |x| ** power`: below 1 it evens out the long tails that ReLU leaves; Perronnin et al. 2010."""
    return np.asarray(np.sign(features) * np.abs(features) ** np.float32(power), dtype=np.float32)


def standardised(tensors: Tensors, card: MetadataCard, features: Floats) -> Floats:
    """Return `features` `(n, feature_dim)` as heads and gate read them: zero mean and unit variance in training."""
    return (powered(features, card.feature_power) - tensors["mean"]) * tensors["scale"]


def head_logits(tensors: Tensors, card: MetadataCard, features: Floats) -> Scores:
    """Return each head's logits `(n, labels)` for `features` `(n, feature_dim)`: hidden layers, then heads."""
    hidden = standardised(tensors, card, features)
    for layer in range(card.hidden_layers):
        hidden = np.maximum(_linear(tensors, f"hidden.{layer}", hidden), 0)
    return {head.name: _linear(tensors, head.name, hidden) for head in card.heads}


def _linear(tensors: Tensors, name: str, inputs: Floats) -> Floats:
    # Not `@`: its threads spin while they wait for each other. On two busy cores one crop took 20 ms by `@`, 0.2 ms so.
    outputs: Floats = np.einsum("nd,od->no", inputs, tensors[f"{name}.weight"])
    return outputs + tensors[f"{name}.bias"]


def softmax(logits: Floats) -> Floats:
    """Return `(n, labels)` float32 scores that sum to 1 in each row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


def attribute_scores(card: MetadataCard, logits: Scores) -> Scores:
    """Return calibrated scores `(n, labels)` of all attributes; a mapped one sums its source's scores."""
    scores = {head.name: softmax(logits[head.name] / np.float32(head.temperature)) for head in card.heads}
    for mapped in (c for c in card.attributes if c.mapped_from is not None):
        scores[mapped.name] = np.einsum("ns,sm->nm", scores[str(mapped.mapped_from)], _membership(card, mapped))
    return scores


def _membership(card: MetadataCard, mapped: AttributeCard) -> Floats:
    source = next(c for c in card.attributes if c.name == mapped.mapped_from)
    columns = [mapped.labels.index(mapped.mapping[label]) for label in source.labels]
    return np.eye(len(mapped.labels), dtype=np.float32)[columns]


def gate_scores(tensors: Tensors, card: MetadataCard, features: Floats) -> Floats:
    """Return `(n,)` float32 in [0, 1]: how much the features look like the goods that the heads were fitted on."""
    logits = np.einsum("nd,d->n", standardised(tensors, card, features), tensors["gate.weight"]) + tensors["gate.bias"]
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -60, 60))), dtype=np.float32)


def compose_name(rules: NameRules, attributes: list[Attribute]) -> str | None:
    """Return a name made of the sure attributes ("Women's Red Dress"), or None while the noun itself is not sure."""
    labels = {a.name: a.label for a in attributes if a.sure}
    if rules.noun not in labels:
        return None
    noun = _words(rules, rules.noun, labels)
    parts = [_words(rules, name, labels) for name in rules.before if name in labels]
    taken = {word.casefold() for word in noun.split()}
    kept = [part for part in parts if part and taken.isdisjoint(part.casefold().split())]
    return " ".join([*kept, noun]) or None


def _words(rules: NameRules, name: str, labels: dict[str, str]) -> str:
    beside = rules.unless.get(name, {})
    if any(labels.get(other) in silenced for other, silenced in beside.items()):
        return ""
    return rules.words.get(name, {}).get(labels[name], labels[name])


class Describer:
    """The metadata heads of one network: a millisecond or two a crop, safe to share between threads."""

    def __init__(self, card: MetadataCard, tensors: Tensors) -> None:
        """Take the heads' tensors as float32.

        Raises:
            SetupError: naming the tensor that is missing, superfluous or of another shape than `card` asks for.
        """
        self.card = card
        self._tensors = {name: np.asarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}
        _check_tensors(card, self._tensors)

    @classmethod
    def load(cls, model_dir: Path, settings: ModelSettings) -> Self:
        """Read `metadata.json` and `heads.safetensors` from `model_dir`; the heads always run on the CPU.

        Raises:
            SetupError: for a file that is missing or damaged, or for two files that do not belong together.
        """
        del settings  # every model loads with the same call; these few matrix products have nothing to set
        card = _read_card(model_dir / CARD_FILE)
        path = model_dir / HEADS_FILE
        if not path.is_file():
            raise SetupError(f"{path} is missing")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if sha256 != card.heads_sha256:
            raise SetupError(f"{path} has sha256 {sha256}, {CARD_FILE} beside it expects {card.heads_sha256}")
        try:
            return cls(card, load_file(path))
        except SafetensorError as error:
            raise SetupError(f"{path} is no safetensors file: {error}") from error

    @property
    def feature_fingerprint(self) -> str:
        """The fingerprint of the network whose features these heads read."""
        return self.card.feature_fingerprint

    def check_network(self, fingerprint: str) -> None:
        """Make sure that the features will come from the network with this fingerprint.

        Raises:
            SetupError: when the heads were fitted on another network's features.
        """
        if fingerprint != self.feature_fingerprint:
            raise SetupError(
                f"the metadata heads read features of network {self.feature_fingerprint}, not of {fingerprint}",
                allowed="fit the heads again on this network: python -m training.train_metadata",
            )

    def labels(self) -> dict[str, list[str]]:
        """Return every attribute's labels, in the order of the reply."""
        return {card.name: list(card.labels) for card in self.card.attributes}

    def scores(self, features: Floats) -> Scores:
        """Return calibrated scores `(n, labels)` of every attribute for `features` `(n, feature_dim)`, all float32."""
        return attribute_scores(self.card, head_logits(self._tensors, self.card, features))

    def known(self, features: Floats) -> NDArray[np.bool_]:
        """Return `(n,)` bool: whether each crop looks like the kind of goods that the heads know."""
        return gate_scores(self._tensors, self.card, features) >= self.card.gate_threshold

    def describe(self, features: Floats) -> list[Description]:
        """Return one description a row of `features` `(n, feature_dim)` float32, as the network gives them.

        Raises:
            InvalidRequest: for an array of another shape, or with NaN or infinity in it.
        """
        self._check_features(features)
        scores, known = self.scores(features), self.known(features)
        rows = ({name: matrix[i] for name, matrix in scores.items()} for i in range(len(features)))
        return [self._description(row, bool(passed)) for row, passed in zip(rows, known, strict=True)]

    def _description(self, scores: Scores, known: bool) -> Description:
        attributes = [self._attribute(card, scores[card.name], known) for card in self.card.attributes]
        name = compose_name(self.card.product_display_name, attributes)
        return Description(attributes=attributes, product_display_name=name)

    def _attribute(self, card: AttributeCard, scores: Floats, known: bool) -> Attribute:
        best = int(scores.argmax())
        score = min(1.0, float(scores[best]))  # float32 sums may end at 1.0000001
        return Attribute(name=card.name, label=card.labels[best], score=score, sure=known and score >= card.threshold)

    def _check_features(self, features: Floats) -> None:
        dim = self.card.feature_dim
        if features.ndim != 2 or features.shape[1] != dim:
            raise InvalidRequest(f"features have shape {features.shape}", allowed=f"(n, {dim})")
        if not np.isfinite(features).all():
            raise InvalidRequest("features hold NaN or infinity", allowed="finite numbers")


def _read_card(path: Path) -> MetadataCard:
    try:
        return MetadataCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SetupError(f"{path} is missing or cannot be read") from error
    except ValidationError as error:
        wrong = wrong_fields(error)
        raise SetupError(f"{path}: {wrong}") from error


def _expected_shapes(card: MetadataCard, tensors: Tensors) -> dict[str, tuple[int, ...]]:
    width = card.feature_dim
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("mean", "scale", "gate.weight"), (width,))
    shapes["gate.bias"] = (1,)
    for layer in range(card.hidden_layers):
        bias = tensors.get(f"hidden.{layer}.bias")
        width, before = (len(bias) if bias is not None else width), width
        shapes |= {f"hidden.{layer}.weight": (width, before), f"hidden.{layer}.bias": (width,)}
    for head in card.heads:
        shapes |= {f"{head.name}.weight": (len(head.labels), width), f"{head.name}.bias": (len(head.labels),)}
    return shapes


def _check_tensors(card: MetadataCard, tensors: Tensors) -> None:
    expected = _expected_shapes(card, tensors)
    found: dict[str, Any] = {name: tensor.shape for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise SetupError(f"{HEADS_FILE}: {name!r} has shape {found.get(name)}, not {expected.get(name)}")
