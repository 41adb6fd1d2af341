"""What `training/configs/detector*.yaml` may say; a wrong key is named, never ignored."""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field

from lookalike.model_store import WheelSource
from lookalike.preprocessing import Preprocess
from training.configuration import read_config

PICODET: Final = "picodet_s"
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class StrictModel(BaseModel, extra="forbid", frozen=True):
    """Settings of which an unknown one is an error."""


class StartWeights(StrictModel):
    """The weights that fine-tuning starts from; without a `source` they are random."""

    source: WheelSource | None = None
    weights_sha256: str | None = None
    weights: Path | None = None  # of an earlier run of this network, instead of COCO's
    hub: bool = True  # Faster R-CNN: from torchvision's download site where it is reachable
    fit_images: Annotated[int, Field(ge=1)] = 96  # on these the one class learns to repeat the best of the 80


class DataSettings(StrictModel):
    """Which rows are learned from, and what happens with the wrong ones."""

    folder: Path = Path("autocrop")  # relative to the data folder
    further: list[Path] = []  # more folders with a manifest, whose `train` rows are all learned from
    application_sources: list[str] = []  # measured at the end, never trained or tuned on
    folds: Annotated[int, Field(ge=2)] = 7
    fold: Annotated[int, Field(ge=0)] = 0  # this part of train is the validation split
    share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of each source's training rows, for the data-need curve
    other_boxes: Literal["ignore", "positive", "negative"] = "ignore"
    on_bad_row: Literal["stop", "skip"] = "stop"
    views_per_epoch: Annotated[int, Field(ge=1)] = 1500
    mix: dict[str, Positive]  # source, or rendered:<scene>, -> its part of the views


class AugmentSettings(StrictModel):
    """How often each change of a photo happens, and how far it goes."""

    flip: Share = 0.5
    crop: Share = 0.4  # keeps the whole subject
    cut: Share = 0.1  # a crop that loses up to `cut_most` of the subject at one side
    cut_most: Share = 0.25
    extend: Share = 0.15  # mirrors the margins outwards
    turn: Share = 0.25
    turn_degrees: Annotated[float, Field(ge=0, le=45)] = 5.0
    warp: Share = 0.2
    warp_scale: Share = 0.08
    colour: Share = 0.6
    colour_strength: Share = 0.3
    grey: Share = 0.03
    blur: Share = 0.1
    jpeg: Share = 0.15


class LossSettings(StrictModel):
    """The weights of the three losses, and of the assignment, as PicoDet's authors set them."""

    score: Positive = 1.0
    box: Positive = 2.5
    distribution: Positive = 0.5
    candidates: Annotated[int, Field(ge=1)] = 13
    alpha: Positive = 1.0
    beta: Positive = 6.0


class OptimiserSettings(StrictModel):
    """AdamW under a warm-up and half a cosine."""

    epochs: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)] = 16
    rate: Positive = 1e-3
    backbone_rate: Annotated[float, Field(ge=0)] = 0.3  # of `rate`
    last_rate: Share = 0.03  # of `rate`, at the end
    warm_up: Share = 0.06  # of all steps
    decay: Annotated[float, Field(ge=0)] = 0.02
    clip: Positive = 10.0
    ema: Annotated[float, Field(gt=0, lt=1)] = 0.995
    freeze_stages: Annotated[int, Field(ge=0, le=4)] = 1  # of the backbone: the stem is the first
    patience: Annotated[int, Field(ge=1)] = 6  # epochs without a better validation


class DetectorConfig(StrictModel):
    """The whole file."""

    seed: int = 0
    network: Literal["picodet_s", "fasterrcnn_mobilenet_v3_320", "fasterrcnn_mobilenet_v2_320"] = PICODET
    device: str = "auto"  # auto: CUDA where there is one
    amp: bool = True  # on CUDA only: bfloat16 is slower than float32 on the CPUs that were tried
    threads: Annotated[int, Field(ge=0)] = 1  # 0: one a core
    workers: Annotated[int, Field(ge=0)] = 1
    checkpoint_steps: Annotated[int, Field(ge=1)] = 50
    start: StartWeights = StartWeights()
    preprocess: Preprocess
    data: DataSettings
    augment: AugmentSettings = AugmentSettings()
    loss: LossSettings = LossSettings()
    optimiser: OptimiserSettings

    @property
    def input_px(self) -> int:
        """The edge of the square input."""
        return self.preprocess.height_px


def load_config(path: Path) -> DetectorConfig:
    """Read the configuration.

    Raises:
        SetupError: when it is missing, not YAML, or says something that it may not.
    """
    return read_config(path, DetectorConfig)
