"""What `training/configs/embedder*.yaml` may say; a wrong key is named, never ignored."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from lookalike.model_store import Sha256, WheelSource
from lookalike.preprocessing import Preprocess
from training.configuration import read_config

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
LearningRate = Annotated[float, Field(gt=0)]


class DataSource(BaseModel, extra="forbid", frozen=True):
    """One set of classes; class numbers are counted anew in each, so two sets never share or oppose classes."""

    name: str
    kind: Literal["retrieval", "stanford-online-products", "instances"]
    folder: Path  # relative to the data folder
    classes_in_batch: Count
    instance_views: bool = False  # stronger views, never mirrored: an instance seen by another camera
    pattern: str = "*"  # of an instance's file name
    backgrounds: Path | None = None  # instances with alpha are pasted on these pictures
    validation_share: Share | None = None  # instead of validation.share
    cached_views: Count | None = None  # instead of views.cached, where that is not 0

    def views(self, cached: int) -> int:
        """Return how many views of each picture there are; 0 stands for a new one each time."""
        return (self.cached_views or cached) if cached else 0


class Validation(BaseModel, extra="forbid", frozen=True):
    """Which part of the training classes is held out; with a share of 0 the run goes on to its last step."""

    share: Share
    instance_queries: Count = 2  # queries of each held-out instance, made by strong views
    every_steps: Count
    patience: Count  # validations without a better one before the run stops


class NetworkSettings(BaseModel, extra="forbid", frozen=True):
    """The network; `trained` is `all`, `projection`, or the name of the first part of the backbone that is trained."""

    backbone: str  # a timm name, or efficientnet_lite0: the offline default
    weights: str  # `random`, `pretrained` (timm's download), `package`, or a safetensors file of the backbone
    package: WheelSource | None = None  # a Python package that holds them; nothing but its file is used
    package_sha256: Sha256 | None = None  # of the weights as they are converted
    pooling: Literal["avg", "gem", "cls"]
    dim: Annotated[int, Field(ge=1, le=512)]
    trained: str
    # What the built embedder gives as `features`: the untouched backbone's, at the cost of running both, or its own.
    features: Literal["untouched", "trained"] = "untouched"
    projection_start: Literal["random", "principal"] = "principal"
    dropout: Share = 0.0


class LossSettings(BaseModel, extra="forbid", frozen=True):
    """The loss, by its name in `embedder_losses.LOSSES`, with its arguments in pytorch-metric-learning."""

    name: str
    arguments: dict[str, float | int] = {}
    # Weight of the squared change of the batch's cosine similarities from those of the untrained features:
    # what the backbone knows of other things is not given up for the sets trained on.
    keep_weight: Annotated[float, Field(ge=0)] = 0.0
    # Whose untrained similarities: those of the same views, or of the pictures as the service sees them, so that a view
    # learns to look like its picture.
    keep_of: Literal["views", "pictures"] = "views"
    free_sets: list[str] = []  # within these the similarities may change as the loss likes


class Optimisation(BaseModel, extra="forbid", frozen=True):
    """How the weights are moved: AdamW, a linear warm-up, a cosine down to nothing."""

    steps: Count
    warmup_steps: Annotated[int, Field(ge=0)]
    learning_rate: LearningRate  # of projection and proxies
    backbone_learning_rate: LearningRate
    weight_decay: Annotated[float, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    ema: Annotated[float, Field(ge=0, lt=1)]  # 0: the weights themselves are what is kept
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # auto: bfloat16 on CUDA, else float32
    batch_norm: Literal["frozen", "trained"] = "frozen"


class Views(BaseModel, extra="forbid", frozen=True):
    """How an image is shown. With `cached` > 0 that many views go once through the untrained part and are kept."""

    cached: Annotated[int, Field(ge=0)]
    smallest_share: Annotated[float, Field(gt=0, le=1)] = 0.5  # of the area, that a random crop keeps
    colour: Share = 0.2
    white_balance: Share = 0.0  # an instance's channels are scaled by up to this much, as by other lamps and cameras
    compression: Share = 0.0  # share of an instance's views that went through a poor JPEG


class EmbedderConfig(BaseModel, extra="forbid", frozen=True):
    """The whole file."""

    seed: int
    data: Annotated[list[DataSource], Field(min_length=1)]
    bad_images: Literal["stop", "skip"]
    images_a_class: Annotated[int, Field(ge=2)]
    preprocess: Preprocess
    views: Views
    validation: Validation
    network: NetworkSettings
    loss: LossSettings
    optimisation: Optimisation
    checkpoint_steps: Count
    loaders: Annotated[int, Field(ge=0)] = 0  # processes that read images; 0: none of their own

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        names = [source.name for source in self.data]
        if len(set(names)) < len(names):
            raise ValueError(f"data: two sources of one name among {names}")
        if self.views.cached and self.network.trained == "all":
            raise ValueError("views.cached must be 0 where the whole network is trained: nothing in it stays the same")
        if self.network.weights == "package" and not (self.network.package and self.network.package_sha256):
            raise ValueError("network.weights is 'package': network.package and network.package_sha256 say which")
        queries = self.validation.instance_queries if self.validation.share else 0
        for source in (one for one in self.data if one.kind == "instances" and self.views.cached):
            if source.views(self.views.cached) <= queries:
                raise ValueError(
                    f"data: {source.name} needs more than {queries} cached views: validation shows so many"
                )
        return self


def load_config(path: Path) -> EmbedderConfig:
    """Read the configuration.

    Raises:
        SetupError: when it is missing, not YAML, or says something that it may not.
    """
    return read_config(path, EmbedderConfig)
