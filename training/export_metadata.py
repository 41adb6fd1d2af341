"""Assembles the metadata model: the embedder's graph as backbone, and the heads fitted on its features."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from lookalike.attributes import CARD_FILE, HEADS_FILE, Describer
from lookalike.config import ModelSettings
from lookalike.errors import SetupError
from lookalike.model_store import (
    MODEL_FILE,
    ONNX_FILE,
    PREPROCESS_FILE,
    TORCH_FILE,
    BuiltModel,
    ModelEntry,
    fingerprint_of,
    is_up_to_date,
    read_built_model,
    read_preprocess,
    sha256_of,
)

_BACKBONE_FILES = (ONNX_FILE, TORCH_FILE, PREPROCESS_FILE)


def build_metadata(name: str, entry: ModelEntry, store_dir: Path, models_dir: Path) -> bool:
    """Put the metadata model together in `models_dir / name`, from the built embedder beside it.

    Return whether there was anything to do.

    Raises:
        SetupError: when a part is missing or altered, or the heads were fitted on another embedder's features.
    """
    backbone_dir, heads_dir = models_dir / "embedder", store_dir / name
    backbone = read_built_model(backbone_dir)
    recipe = _recipe(entry, backbone, heads_dir)
    if is_up_to_date(models_dir / name, recipe) and (backbone_dir / CARD_FILE).exists():
        return False
    _check_parts(name, entry, backbone, heads_dir)
    # The embedder carries the heads too: it then describes a crop in the forward pass that embeds it.
    for file in (HEADS_FILE, CARD_FILE):
        shutil.copyfile(heads_dir / file, backbone_dir / file)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=f".{name}-") as scratch:
        folder = Path(scratch) / name
        folder.mkdir(mode=0o755)
        for file in _BACKBONE_FILES:
            shutil.copyfile(backbone_dir / file, folder / file)
        for file in (HEADS_FILE, CARD_FILE):
            shutil.copyfile(heads_dir / file, folder / file)
        (folder / MODEL_FILE).write_text(
            _describe(name, entry, backbone, folder, recipe).model_dump_json(indent=2) + "\n"
        )
        if (models_dir / name).exists():
            (models_dir / name).rename(Path(scratch) / "replaced")
        folder.rename(models_dir / name)
    return True


def _check_parts(name: str, entry: ModelEntry, backbone: BuiltModel, heads_dir: Path) -> None:
    found = sha256_of(heads_dir / HEADS_FILE)
    if found != entry.weights_sha256:
        raise SetupError(f"{heads_dir / HEADS_FILE} has sha256 {found}, models.yaml says {entry.weights_sha256}")
    fitted_on = Describer.load(heads_dir, ModelSettings.load()).feature_fingerprint
    if fitted_on != backbone.fingerprint:
        raise SetupError(
            f"{name}: the heads were fitted on the features of embedder {fitted_on}, "
            f"but embedder {backbone.fingerprint} is built: run `python -m training.train_metadata`"
        )


def _describe(name: str, entry: ModelEntry, backbone: BuiltModel, folder: Path, recipe: str) -> BuiltModel:
    assert entry.weights_sha256 is not None
    architecture = f"{entry.architecture} on {backbone.fingerprint}"
    return BuiltModel(
        name=name,
        version=entry.version,
        architecture=architecture,
        fingerprint=fingerprint_of(entry.weights_sha256, read_preprocess(folder), architecture),
        licence=entry.licence,
        dim=backbone.dim,
        feature_dim=backbone.feature_dim,
        recipe=recipe,
        files={path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    )


def _recipe(entry: ModelEntry, backbone: BuiltModel, heads_dir: Path) -> str:
    parts = [entry.model_dump_json(), backbone.model_dump_json(), sha256_of(heads_dir / CARD_FILE)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
