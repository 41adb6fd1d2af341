"""Describes crops: the metadata network, and the heads that were fitted on its features."""

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lookalike.attributes import Describer
from lookalike.config import ModelSettings
from lookalike.embedding import Embedder
from lookalike.errors import SetupError
from lookalike.model_store import WEIGHTS_FILE, fingerprint_of, read_built_model, read_preprocess
from lookalike.preprocessing import Preprocess
from lookalike.schemas import Description

METADATA_DIR = "metadata_creator"  # inside the embedder's archive: it describes the crops that it embeds


class CropDescriber:
    """A loaded metadata model; call it from one thread at a time."""

    def __init__(self, network: Embedder, heads: Describer, max_images: int = 64) -> None:
        self._network, self._heads, self._max_images = network, heads, max_images

    @classmethod
    def load(cls, model_dir: Path, settings: ModelSettings) -> Self:
        """Load the built metadata model in `model_dir`.

        Raises:
            SetupError: for a missing, altered or foreign part, or heads that were fitted on another network's features.
        """
        heads = Describer.load(model_dir, settings)
        heads.check_network(network_fingerprint(model_dir))
        return cls(Embedder.load(model_dir, settings), heads, settings.max_images)

    @property
    def preprocess(self) -> Preprocess:
        """The geometry in front of the network."""
        return self._network.preprocess

    def check_preprocess(self, other: Preprocess) -> None:
        """Make sure that crops which were fitted for another network can be described as they are.

        Raises:
            SetupError: when they cannot.
        """
        if other != self.preprocess:
            raise SetupError(
                f"the metadata network takes {self.preprocess}, the embedder {other}: one crop must do for both",
                allowed="train the metadata network for this embedder: python -m training.train_metadata_network",
            )

    def describe(self, pixels: NDArray[np.uint8]) -> list[Description]:
        """Return one description a crop of `pixels` `(n, h, w, 3)` uint8, any number of them.

        Raises:
            InvalidRequest: for another dtype or shape.
        """
        step = self._max_images
        parts = (pixels[start : start + step] for start in range(0, len(pixels), step))
        return [one for part in parts for one in self._heads.describe(self._network.embed(part).features)]


def network_fingerprint(model_dir: Path) -> str:
    """Return the fingerprint of the network alone, which the heads name; the model's own covers the heads, too."""
    built = read_built_model(model_dir)
    return fingerprint_of(built.files.get(WEIGHTS_FILE, ""), read_preprocess(model_dir), built.architecture)
