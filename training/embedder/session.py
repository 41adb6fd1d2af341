"""Loads an embedder to measure it: a built model's folder, or the folder of a training run."""

import tempfile
from pathlib import Path

from lookalike.config import ModelSettings
from lookalike.embedding import Embedder
from lookalike.model_store import ONNX_FILE, TORCH_FILE, read_preprocess
from lookalike.preprocessing import Preprocess
from lookalike.runtimes import OnnxSession, available_cores
from training.embedder.network import ExportedEmbedder, TailedEmbedder
from training.embedder.store import DESCRIPTION_FILE, read_embedder
from training.networks import export_network


def load_embedder(folder: Path, settings: ModelSettings) -> Embedder:
    """Return the embedder of a built model, or of a training run, in `folder`.

    Raises:
        SetupError: when there is neither.
    """
    if not (folder / DESCRIPTION_FILE).exists():
        return Embedder.load(folder, settings)
    return embedder_of(read_embedder(folder), read_preprocess(folder), settings)


def embedder_of(network: TailedEmbedder, preprocess: Preprocess, settings: ModelSettings) -> Embedder:
    """Return a network of training as the service would run it; it has no fingerprint: no index may be built by it."""
    exported = ExportedEmbedder(network.eval(), preprocess).eval()
    with tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / ONNX_FILE
        export_network(exported, preprocess, Path(folder) / TORCH_FILE, onnx_path)
        session = OnnxSession(onnx_path, settings.threads or available_cores())
    return Embedder(session, preprocess, network.dim, network.feature_dim, "", settings.max_images)
