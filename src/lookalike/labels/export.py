"""Puts a trained task's model together, so that the server finds it: the embedder's graph as backbone, and the head."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from lookalike.errors import SetupError
from lookalike.labels.head import CARD_FILE, HEAD_FILE, LabelCard, LabelHead
from lookalike.model_store import (
    MODEL_FILE,
    ONNX_FILE,
    PREPROCESS_FILE,
    TORCH_FILE,
    BuiltModel,
    fingerprint_of,
    load_entries,
    read_built_model,
    sha256_of,
    verified_file,
)

HANDLER = "label_handler.py"


def export_task(trained_dir: Path, root: Path, embedder_dir: Path) -> Path:
    """Build `root/var/models/<task>` from the trained task in `trained_dir`; return it. The server loads it from there.

    Raises:
        SetupError: when a part is missing or altered, the head was trained on another embedder's features, or the name
            is that of another model.
    """
    card, backbone = LabelHead.load(trained_dir).card, read_built_model(embedder_dir)
    models_dir = root / "var/models"
    _check(card, backbone, root, models_dir / card.name)
    models_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models_dir, prefix=f".{card.name}-") as scratch:
        folder = Path(scratch) / card.name
        folder.mkdir(mode=0o755)
        for name in (ONNX_FILE, TORCH_FILE):
            shutil.copyfile(verified_file(embedder_dir, name), folder / name)
        for name in (HEAD_FILE, CARD_FILE):
            shutil.copyfile(trained_dir / name, folder / name)
        (folder / PREPROCESS_FILE).write_text(card.preprocess.model_dump_json(indent=2) + "\n")
        (folder / MODEL_FILE).write_text(_describe(card, backbone, folder).model_dump_json(indent=2) + "\n")
        if (models_dir / card.name).exists():
            (models_dir / card.name).rename(Path(scratch) / "replaced")
        folder.rename(models_dir / card.name)
    return models_dir / card.name


def _check(card: LabelCard, backbone: BuiltModel, root: Path, target: Path) -> None:
    listed = load_entries(root / "model_store/models.yaml")
    taken = target.exists() and not (target / CARD_FILE).is_file()
    if card.name in listed or taken:
        raise SetupError(
            f"{card.name!r} is the name of another model: rename the task file", allowed=f"not {[*listed]}"
        )
    if backbone.fingerprint != card.embedder:
        raise SetupError(
            f"task {card.name} was trained on the features of embedder {card.embedder}, "
            f"but embedder {backbone.fingerprint} is built",
            allowed="train the task again: lookalike labels train TASK.yaml",
        )


def _describe(card: LabelCard, backbone: BuiltModel, folder: Path) -> BuiltModel:
    architecture = f"label head on {backbone.fingerprint}"
    card_sha256 = sha256_of(folder / CARD_FILE)
    return BuiltModel(
        name=card.name,
        version=card.version,
        architecture=architecture,
        # The card holds temperature and labels: with others of them the same head replies something else.
        fingerprint=fingerprint_of(card.head_sha256 + card_sha256, card.preprocess, architecture),
        licence=backbone.licence,
        dim=backbone.dim,
        feature_dim=backbone.feature_dim,
        labels=card.labels,
        handler=HANDLER,
        recipe=hashlib.sha256(f"{backbone.recipe}\n{card_sha256}".encode()).hexdigest(),
        files={path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    )
