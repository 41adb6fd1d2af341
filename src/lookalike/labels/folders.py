"""Where label tasks are kept under the project's folder, and how a user names one."""

from pathlib import Path

from lookalike.config import ModelSettings
from lookalike.embedding import Embedder
from lookalike.errors import SetupError
from lookalike.labels.features import FeatureReader
from lookalike.labels.head import LabelHead
from lookalike.labels.task import TaskSettings
from lookalike.preprocessing import Preprocess


def task_name(text: str) -> str:
    """Return the name of a task given by name or by its YAML file."""
    return Path(text).stem if text.endswith((".yaml", ".yml")) else text


def trained_dir(root: Path, name: str) -> Path:
    """Return the folder that training writes a task to."""
    return root / "var/labels" / name


def cache_dir(root: Path) -> Path:
    """Return the folder of decoded images and of their features."""
    return root / "var/cache/labels"


def task_preprocess(embedder: Embedder, settings: TaskSettings) -> Preprocess:
    """Return the embedder's preprocessing with the task's resize mode.

    Raises:
        SetupError: when the task asks for another input size than the embedder was built for.
    """
    built, wanted = embedder.preprocess, settings.input_px
    if wanted is not None and (wanted, wanted) != (built.width_px, built.height_px):
        raise SetupError(
            f"input_px is {wanted}, but {settings.embedder} was built for {built.width_px}x{built.height_px}",
            allowed=f"python -m training.export --models embedder --input-px {wanted} --out var/models-{wanted}, "
            f"and embedder: var/models-{wanted}/embedder in the task",
        )
    return built if settings.resize is None else built.model_copy(update={"resize": settings.resize})


def load_embedder(path: Path, threads: int = 0) -> Embedder:
    """Load the embedder that tasks are trained on.

    Raises:
        SetupError: when it is not built.
    """
    return Embedder.load(path, ModelSettings.load({"threads": threads}))


def reader_of(head: LabelHead, embedder: Embedder, cache: Path | None) -> FeatureReader:
    """Return the reader of the features that `head` was trained on.

    Raises:
        SetupError: when `embedder` is another one than the head's.
    """
    if embedder.fingerprint != head.card.embedder:
        raise SetupError(
            f"task {head.card.name} was trained on the features of embedder {head.card.embedder}, "
            f"not of {embedder.fingerprint}",
            allowed="train the task again: lookalike labels train TASK.yaml",
        )
    return FeatureReader(embedder, head.card.preprocess, cache)
