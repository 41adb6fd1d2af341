"""Builds models: from weights to a folder that a runtime loads (`model.onnx`, `model.pt2`, `model.json`, ...).

Run:
    python -m training.export --models detector embedder

A model that is already built from the same recipe is left alone.
"""

import argparse
import hashlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from lookalike.errors import LookalikeError, SetupError
from lookalike.model_store import (
    MODEL_FILE,
    ONNX_FILE,
    PREPROCESS_FILE,
    TORCH_FILE,
    WEIGHTS_FILE,
    BuiltModel,
    ModelEntry,
    fingerprint_of,
    is_up_to_date,
    load_entries,
    read_preprocess,
    sha256_of,
)
from lookalike.preprocessing import Preprocess
from training.export_metadata import checked_heads, lay_beside_embedder

EXPORTABLE = ("detector", "embedder", "metadata_creator")
_LABELS_FILE = "labels.txt"
_SOURCES = (
    "efficientnet_lite.py",
    "networks.py",
    "picodet.py",
    "embedder/network.py",
    "metadata/network.py",
    "weights.py",
)

_log = logging.getLogger(__name__)


def build_models(
    names: Sequence[str], store_dir: Path, models_dir: Path, downloads_dir: Path, input_px: int | None = None
) -> list[Path]:
    """Build each named model that is not up to date; return their folders.

    `input_px` builds for square inputs of that edge instead of the size in preprocess.json, to compare sizes.

    Raises:
        SetupError: for an unknown name, a failed download or a wrong sha256.
    """
    entries = load_entries(store_dir / "models.yaml")
    for name in names:
        if name not in EXPORTABLE or name not in entries:
            raise SetupError(f"model {name!r} is not built by export", allowed=EXPORTABLE)
    folders = []
    for name in sorted(names, key=EXPORTABLE.index):
        preprocess = read_preprocess(store_dir / name)
        if input_px is not None:
            preprocess = preprocess.model_copy(update={"height_px": input_px, "width_px": input_px})
        folders.append(_build_listed(name, entries[name], preprocess, store_dir, models_dir / name, downloads_dir))
    if lay_beside_embedder(models_dir):
        _log.info("the embedder carries the metadata model")
    return folders


def _build_listed(
    name: str, entry: ModelEntry, preprocess: Preprocess, store_dir: Path, model_dir: Path, downloads_dir: Path
) -> Path:
    labels = _read_labels(store_dir / name / _LABELS_FILE)
    heads = checked_heads(store_dir / name, entry, preprocess)
    recipe = _recipe(entry, preprocess, labels, heads)
    if is_up_to_date(model_dir, recipe):
        _log.info("%s is up to date", name)
        return model_dir
    # torch and timm take seconds to import: only a build needs them, not the look whether there is one.
    from training.fetch_weights import fetch_weights

    _log.info("building %s", name)
    weights = fetch_weights(name, entry, store_dir, downloads_dir)
    return build_model(name, entry, weights, preprocess, labels, model_dir, heads)


def build_model(
    name: str,
    entry: ModelEntry,
    weights: Path,
    preprocess: Preprocess,
    labels: list[str],
    model_dir: Path,
    heads: Sequence[Path] = (),
) -> Path:
    """Export one model into `model_dir` with the files of its `heads`, replacing what is there; return `model_dir`.

    Raises:
        SetupError: when the entry names no architecture, or one that is not known.
    """
    from training.networks import export_network, load_network

    if entry.architecture is None:
        raise SetupError(f"{name}: models.yaml names no architecture")
    model_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=model_dir.parent, prefix=f".{name}-") as scratch:
        folder = Path(scratch) / name
        folder.mkdir(mode=0o755)
        for source, file in [(weights, WEIGHTS_FILE), *((path, path.name) for path in heads)]:
            shutil.copyfile(source, folder / file)
        (folder / PREPROCESS_FILE).write_text(preprocess.model_dump_json(indent=2) + "\n")
        network = load_network(entry.architecture, weights, preprocess)
        export_network(network, preprocess, folder / TORCH_FILE, folder / ONNX_FILE)
        built = BuiltModel(
            name=name,
            version=entry.version,
            architecture=entry.architecture,
            fingerprint=fingerprint_of("".join(map(sha256_of, (weights, *heads))), preprocess, entry.architecture),
            licence=entry.licence,
            dim=entry.dim,
            feature_dim=entry.feature_dim,
            labels=labels,
            likeness=entry.likeness,
            recipe=_recipe(entry, preprocess, labels, heads),
            files={path.name: sha256_of(path) for path in sorted(folder.iterdir())},
        )
        (folder / MODEL_FILE).write_text(built.model_dump_json(indent=2) + "\n")
        if model_dir.exists():
            model_dir.rename(Path(scratch) / "replaced")
        folder.rename(model_dir)
    return model_dir


def _recipe(entry: ModelEntry, preprocess: Preprocess, labels: list[str], heads: Sequence[Path]) -> str:
    """Return a hash of everything that decides the build's result; the entry holds the sha256 of the weights."""
    sources = [sha256_of(path) for path in (*(Path(__file__).parent / source for source in _SOURCES), *heads)]
    parts = [entry.model_dump_json(), preprocess.model_dump_json(), *labels, version("torch"), *sources]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _read_labels(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description="Build the exported models.")
    parser.add_argument("--models", nargs="+", default=list(EXPORTABLE), choices=EXPORTABLE)
    parser.add_argument("--input-px", type=int, help="another edge than in preprocess.json, to compare sizes")
    parser.add_argument("--store", type=Path, default=Path("model_store"))
    parser.add_argument("--out", type=Path, default=Path("var/models"))
    parser.add_argument("--downloads", type=Path, default=Path("var/downloads"))
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    _log.setLevel(logging.INFO)
    try:
        build_models(options.models, options.store, options.out, options.downloads, options.input_px)
    except LookalikeError as error:
        _log.error("%s", error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
