"""Loads the metadata network of a safetensors file, to fit heads on its features as the service will see them."""

import tempfile
from pathlib import Path

from lookalike.config import ModelSettings
from lookalike.embedding import Embedder
from lookalike.model_store import ONNX_FILE, TORCH_FILE, fingerprint_of, sha256_of
from lookalike.preprocessing import Preprocess
from lookalike.runtimes import OnnxSession, available_cores
from training.metadata.network import FEATURES
from training.networks import export_network, load_network

ARCHITECTURE = "efficientnet_lite0-half"


def load_metadata_network(weights: Path, preprocess: Preprocess, settings: ModelSettings) -> Embedder:
    """Return the network as a source of features, under the fingerprint that the built model will have.

    Raises:
        SetupError: when the file is missing or does not fit.
    """
    fingerprint = fingerprint_of(sha256_of(weights), preprocess, ARCHITECTURE)
    network = load_network(ARCHITECTURE, weights, preprocess)
    with tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / ONNX_FILE
        export_network(network, preprocess, Path(folder) / TORCH_FILE, onnx_path)
        session = OnnxSession(onnx_path, settings.threads or available_cores())
    return Embedder(session, preprocess, FEATURES, FEATURES, fingerprint, settings.max_images)
