"""The embedder in this process, as an ingest and the command line use it: whole images, fitted to its input."""

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lookalike.config import ModelSettings
from lookalike.embedding import Embedder
from lookalike.model_store import read_built_model


class WholeImageEmbedder:
    """An `ImageEmbedder` that embeds each image as it is: catalogue pictures show one item each."""

    preparation = "whole image"

    def __init__(self, name: str, embedder: Embedder) -> None:
        self.name, self._embedder = name, embedder
        self.fingerprint, self.dim = embedder.fingerprint, embedder.dim

    @classmethod
    def load(cls, model_dir: Path, settings: ModelSettings | None = None) -> Self:
        """Load the built embedder in `model_dir`.

        Raises:
            SetupError: for a missing, altered or foreign model, or a runtime that is not there.
        """
        built = read_built_model(model_dir)
        return cls(f"{built.architecture} {built.version}", Embedder.load(model_dir, settings or ModelSettings.load()))

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Return the image as one network input `(h, w, 3)`."""
        return self._embedder.preprocess.fit(image)

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings `(n, dim)` of prepared images `(n, h, w, 3)`."""
        return self._embedder.embed(pixels).embeddings
