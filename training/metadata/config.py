"""What `training/configs/metadata.yaml` may say; a wrong key is named, never ignored."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from lookalike.attributes import NameRules
from lookalike.model_store import Sha256, WheelSource
from lookalike.preprocessing import Preprocess
from training.configuration import read_config
from training.metadata.heads import Recipe


class DataPaths(BaseModel, extra="forbid", frozen=True):
    """Where the data is, relative to the data folder."""

    manifest: Path
    images: Path
    hires: Path
    user_photos: Path
    user_images: Path
    user_columns: list[str]  # the attributes that are known of them
    other_manifest: Path
    other_images: Path


class AttributeAim(BaseModel, extra="forbid", frozen=True):
    """An attribute, in the order of the reply, and how often it shall be right where it is sure."""

    name: str
    precision: Annotated[float, Field(gt=0, le=1)]
    mapped_from: str | None = None


class Copies(BaseModel, extra="forbid", frozen=True):
    """How often each picture of the small sets is shown beside the train split."""

    hires: Annotated[int, Field(ge=0)]
    user_photos: Annotated[int, Field(ge=0)]  # of those that are not held out


class GateAim(BaseModel, extra="forbid", frozen=True):
    """What the gate is fitted on and how much it lets pass."""

    accept: Annotated[float, Field(gt=0, le=1)]
    strength: Annotated[float, Field(gt=0)]
    small_edge_px: Annotated[int, Field(gt=0)]
    known_classes: list[str] = []  # classes of the other pictures that the heads do know: in neither group


class Stage(BaseModel, extra="forbid", frozen=True):
    """Epochs at one input size: small pictures teach faster, the last epochs see what the service sees."""

    edge_px: Annotated[int, Field(ge=32)]
    epochs: Annotated[int, Field(ge=1)]


class NetworkSettings(BaseModel, extra="forbid", frozen=True):
    """How the network behind the heads is fine-tuned; `python -m training.train_metadata_network` reads it."""

    backbone: Literal["efficientnet_lite0", "efficientnet_lite2"] = "efficientnet_lite0"  # the smaller one is served
    source: WheelSource  # of the ImageNet weights
    weights_sha256: Sha256
    weights: Path | None = None  # of an earlier run of this backbone, instead of ImageNet's
    preprocess: Preprocess  # of the embedder; the network sees its pixels at half the resolution
    trained: str = "all"  # `heads`: the last layer only; `blocks.2`: what comes before it stays as it is
    stages: Annotated[list[Stage], Field(min_length=1)]
    batch: Annotated[int, Field(ge=1)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3  # of the heads
    backbone_learning_rate: Annotated[float, Field(gt=0)] = 7e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.05  # share of the steps
    ema: Annotated[float, Field(gt=0, lt=1)] = 0.998
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weight_power: Annotated[float, Field(ge=0, le=1)] = 0.0  # weight = frequency ** -power, mean 1 over the rows
    focal_gamma: Annotated[float, Field(ge=0)] = 0.0  # Lin et al. 2017; 0: plain cross-entropy
    smallest_edge: Annotated[float, Field(gt=0, le=1)] = 0.7  # of a picture's edge, that a view keeps
    light: Annotated[float, Field(ge=0, lt=1)] = 0.2
    teacher_weight: Annotated[float, Field(ge=0, le=1)] = 0.0  # of the loss against the teachers' logits
    teacher_temperature: Annotated[float, Field(gt=0)] = 2.0
    checkpoint_steps: Annotated[int, Field(ge=1)] = 100

    @property
    def epochs(self) -> int:
        """Of all stages."""
        return sum(stage.epochs for stage in self.stages)

    def edge_px(self, epoch: int) -> int:
        """Return the input's edge in an epoch, counted from 0."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage.edge_px
            epoch -= stage.epochs
        return self.stages[-1].edge_px


class TrainingConfig(BaseModel, extra="forbid", frozen=True):
    """The whole file."""

    version: str
    seed: int
    data: DataPaths
    feature_power: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_count: Annotated[int, Field(ge=1)]
    least_score: Annotated[float, Field(ge=0, le=1)]
    copies: Copies
    network: NetworkSettings
    attributes: Annotated[list[AttributeAim], Field(min_length=1)]
    recipes: Annotated[list[Recipe], Field(min_length=1)]
    gate: GateAim
    product_display_name: NameRules

    @model_validator(mode="after")
    def _first_view_is_plain(self) -> Self:
        crooked = [recipe.name for recipe in self.recipes if recipe.views[:1] != ["plain"]]
        if crooked:
            raise ValueError(f"recipes {crooked}: the first view must be plain: it is what the service sees")
        return self

    @property
    def columns(self) -> list[str]:
        """All attributes' names."""
        return [aim.name for aim in self.attributes]

    @property
    def heads(self) -> list[str]:
        """The attributes with a head of their own."""
        return [aim.name for aim in self.attributes if aim.mapped_from is None]

    def decisive(self) -> dict[str, Any]:
        """Return what a run of the network depends on; the heads' recipes and the gate come after it."""
        return self.model_dump(include={"seed", "data", "min_count", "copies", "network", "attributes"})


def load_config(path: Path) -> TrainingConfig:
    """Read the configuration.

    Raises:
        SetupError: when it is missing, not YAML, or says something that it may not.
    """
    return read_config(path, TrainingConfig)
