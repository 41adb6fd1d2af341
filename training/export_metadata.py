"""What is special of a built metadata model: the heads beside its network, and a copy of it with the embedder."""

import shutil
from pathlib import Path

from lookalike.attributes import CARD_FILE, HEADS_FILE, Describer
from lookalike.config import ModelSettings
from lookalike.metadata import METADATA_DIR
from lookalike.model_store import MODEL_FILE, ModelEntry, fingerprint_of
from lookalike.preprocessing import Preprocess

HEAD_FILES = (HEADS_FILE, CARD_FILE)


def checked_heads(folder: Path, entry: ModelEntry, preprocess: Preprocess) -> list[Path]:
    """Return the files of the heads in `folder`, which belong to the network of `entry`; none where it has no heads.

    Raises:
        SetupError: when one is missing or altered, or they were fitted on another network's features.
    """
    if not (folder / CARD_FILE).exists():
        return []
    network = fingerprint_of(entry.weights_sha256 or "", preprocess, entry.architecture or "")
    Describer.load(folder, ModelSettings.load()).check_network(network)
    return [folder / name for name in HEAD_FILES]


def lay_beside_embedder(models_dir: Path) -> bool:
    """Copy the built metadata model into the built embedder's folder; return whether there was anything to do.

    The embedder's server then describes a crop in the request that embeds it (docs/adr/0006-metadata-network.md).
    """
    built, beside = models_dir / METADATA_DIR, models_dir / "embedder" / METADATA_DIR
    if not (built.exists() and beside.parent.exists()):
        return False
    if beside.exists() and (beside / MODEL_FILE).read_bytes() == (built / MODEL_FILE).read_bytes():
        return False
    partial = beside.with_name(f".{METADATA_DIR}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(built, partial)
    shutil.rmtree(beside, ignore_errors=True)
    partial.rename(beside)
    return True
