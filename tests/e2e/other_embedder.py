"""A second real embedder: the default one with the numbers of its embedding in reverse order.

It finds what the first one finds, and its embeddings mean nothing in the first one's index.
"""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from lookalike.archives import ArchiveSources, build_archives
from lookalike.model_store import fingerprint_of, read_preprocess


def build_other_archives(root: Path, into: Path) -> Path:
    """Build the archives of the project in `root` with the other embedder; return their folder."""
    models = into / "models"
    shutil.copytree(root / "var/models", models)
    _turn_round(models / "embedder")
    sources = ArchiveSources(root / "model_store", models, root / "handlers")
    build_archives(sources, into / "archives")
    return into / "archives"


def _turn_round(model_dir: Path) -> None:
    network = onnx.load(str(model_dir / "model.onnx"))
    for tensor in network.graph.initializer:
        if tensor.name.startswith("network.projection."):
            turned = np.ascontiguousarray(numpy_helper.to_array(tensor)[::-1])
            tensor.CopyFrom(numpy_helper.from_array(turned, tensor.name))
    onnx.save(network, str(model_dir / "model.onnx"))
    described = json.loads((model_dir / "model.json").read_text())
    digest = hashlib.sha256((model_dir / "model.onnx").read_bytes()).hexdigest()
    described["files"]["model.onnx"] = digest
    described["version"] = "2.0"
    described["fingerprint"] = fingerprint_of(digest, read_preprocess(model_dir), described["architecture"])
    (model_dir / "model.json").write_text(json.dumps(described))
