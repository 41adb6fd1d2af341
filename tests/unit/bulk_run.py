"""A bulk run as a process of its own, with a small embedder that tells a file of every image that it embeds.

python -m tests.unit.bulk_run '{"source": "...", "output": "...", "told": "...", "options": {}, "cluster": {}}'
"""

import hashlib
import json
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.bulk.embedder import BulkEmbedder, BulkOptions
from lookalike.bulk.job import embed_catalogue
from lookalike.bulk.ray_session import Cluster
from lookalike.catalogue import FOLDER_LEVELS
from lookalike.config import ModelSettings
from lookalike.errors import LookalikeError
from tests.colour_embedder import ColourEmbedder


@dataclass
class Telling:
    """Loads the embedder in an actor."""

    told: Path
    pause_s: float

    def __call__(self, settings: ModelSettings) -> "TellingColours":
        return TellingColours(self.told, self.pause_s)


class TellingColours(ColourEmbedder):
    def __init__(self, told: Path, pause_s: float) -> None:
        super().__init__()
        self._told, self._pause_s = told, pause_s

    def embed(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        time.sleep(self._pause_s)
        with self._told.open("a") as file:
            file.write("".join(hashlib.sha256(one.tobytes()).hexdigest() + "\n" for one in pixels))
        return super().embed(pixels)


def embedder(load: Telling) -> BulkEmbedder:
    colours = ColourEmbedder()
    return BulkEmbedder(colours.name, colours.fingerprint, colours.dim, colours.preparation, colours.prepare, load)


def main(text: str) -> None:
    asked = json.loads(text)
    load = Telling(Path(asked["told"]), asked.get("pause_s", 0.0))
    run = partial(embed_catalogue, asked["source"], FOLDER_LEVELS, asked["output"], embedder(load))
    try:
        summary = run(BulkOptions(**asked["options"]), Cluster(**asked["cluster"]))
    except LookalikeError as error:
        sys.exit(f"{type(error).__name__}: {error.message}")
    sys.stdout.write(summary.model_dump_json())


if __name__ == "__main__":
    main(sys.argv[1])
