"""What `training/configs/metadata.yaml` may say; a wrong key is named, never ignored."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator

from lookalike.attributes import NameRules
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


class TrainingConfig(BaseModel, extra="forbid", frozen=True):
    """The whole file."""

    version: str
    seed: int
    data: DataPaths
    feature_power: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_count: Annotated[int, Field(ge=1)]
    least_score: Annotated[float, Field(ge=0, le=1)]
    copies: Copies
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


def load_config(path: Path) -> TrainingConfig:
    """Read the configuration.

    Raises:
        SetupError: when it is missing, not YAML, or says something that it may not.
    """
    return read_config(path, TrainingConfig)
