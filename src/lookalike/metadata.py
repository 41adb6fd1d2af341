"""Describes crops: the metadata network, and the heads that were fitted on its features."""

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lookalike.attributes import Describer
from lookalike.config import ModelSettings
from lookalike.embedding import Embedder, embed_in_parts
from lookalike.errors import SetupError
from lookalike.model_store import WEIGHTS_FILE, fingerprint_of, read_built_model, read_preprocess
from lookalike.preprocessing import Preprocess
from lookalike.schemas import Description

METADATA_DIR = "metadata_creator"  # inside the embedder's archive: it describes the crops that it embeds


class CropDescriber:
    """A loaded metadata model; call it from one thread at a time."""

    def __init__(self, network: Embedder, heads: Describer, max_images: int = 64) -> None:
        self.network, self.heads, self._max_images = network, heads, max_images

    @classmethod
    def load(cls, model_dir: Path, settings: ModelSettings) -> Self:
        """Load the built metadata model in `model_dir`.

        Raises:
            SetupError: for a missing, altered or foreign part, or heads that were fitted on another network's features.
        """
        network, heads = Embedder.load(model_dir, settings), Describer.load(model_dir, settings)
        # The model's own fingerprint covers the heads, too; features depend on the network alone.
        network.fingerprint = network_fingerprint(model_dir)
        heads.check_network(network.fingerprint)
        return cls(network, heads, settings.max_images)

    @property
    def preprocess(self) -> Preprocess:
        """The geometry in front of the network."""
        return self.network.preprocess

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
        _, features = embed_in_parts(self.network, pixels, self._max_images)
        return self.heads.describe(features)


def network_fingerprint(model_dir: Path) -> str:
    """Return the fingerprint of a built metadata model's network alone, which the heads name."""
    built = read_built_model(model_dir)
    return fingerprint_of(built.files.get(WEIGHTS_FILE, ""), read_preprocess(model_dir), built.architecture)
