"""Turns crops into embeddings: the pre- and post-processing of the embedder, no server in sight."""

from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.config import ModelSettings
from lookalike.errors import SetupError
from lookalike.model_store import read_built_model, read_preprocess
from lookalike.preprocessing import Preprocess
from lookalike.runtimes import Session, load_session


class Embedded(NamedTuple):
    """What the embedder says of `n` crops."""

    embeddings: NDArray[np.float32]  # (n, dim), L2-normalised
    features: NDArray[np.float32]  # (n, feature_dim), pooled, before the projection: what heads read


class Embedder:
    """A loaded embedder; call it from one thread at a time."""

    def __init__(
        self,
        session: Session,
        preprocess: Preprocess,
        dim: int,
        feature_dim: int,
        fingerprint: str,
        max_images: int = 64,
    ) -> None:
        self.preprocess = preprocess
        self.dim = dim
        self.feature_dim = feature_dim
        self.fingerprint = fingerprint
        self._session = session
        self._max_images = max_images

    @classmethod
    def load(cls, model_dir: Path, settings: ModelSettings) -> Self:
        """Load the built embedder in `model_dir`.

        Raises:
            SetupError: for a missing, altered or foreign model, or a runtime that is not there.
        """
        built = read_built_model(model_dir)
        if built.dim is None or built.feature_dim is None:
            raise SetupError(f"{model_dir} holds {built.name!r}, which is no embedder: model.json names no dim")
        session = load_session(model_dir, settings)
        preprocess = read_preprocess(model_dir)
        return cls(session, preprocess, built.dim, built.feature_dim, built.fingerprint, settings.max_images)

    def embed(self, pixels: NDArray[np.uint8]) -> Embedded:
        """Embed crops that `preprocess.fit` has brought to the input size: `pixels` is `(n, h, w, 3)` uint8 RGB.

        Raises:
            InvalidRequest: for another dtype or shape, or more images than `max_images`.
        """
        self.preprocess.check(pixels, self._max_images)
        if not len(pixels):
            return Embedded(np.empty((0, self.dim), np.float32), np.empty((0, self.feature_dim), np.float32))
        outputs = self._session.run(pixels)
        return Embedded(outputs["embedding"], outputs["features"])


def embed_in_parts(
    embedder: Embedder, pixels: NDArray[np.uint8], step: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return embeddings and features of any number of crops, `step` at a time: rows together may exceed one call."""
    parts = [embedder.embed(pixels[start : start + step]) for start in range(0, len(pixels), step)]
    return np.concatenate([part.embeddings for part in parts]), np.concatenate([part.features for part in parts])
