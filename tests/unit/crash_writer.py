"""What a process does that edits an index by small steps until it is killed.

Each chunk whose embeddings are on the disk, and each version that is published, is acknowledged by a line in a file.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.catalogue import read_catalogue
from lookalike.index import edits
from lookalike.index.store import EmbeddingStore
from tests.slow_edits import OPTIONS, SETTINGS, SlowColours


class Acknowledged(EmbeddingStore):
    """Tells of every chunk as soon as `save` has returned."""

    file: Path

    def save(self, keys: Sequence[bytes], embeddings: NDArray[np.float32]) -> None:
        super().save(keys, embeddings)
        tell(self.file, "saved", *(key.hex() for key in keys))


def tell(file: Path, *words: str) -> None:
    with file.open("a") as lines:
        lines.write(" ".join(words) + "\n")


def write(index_dir: Path, folder: Path, action: str, count: int, told: Path) -> None:
    """Build from the folder, add it, or remove its first `count` items; tell the file `told` what is done."""
    Acknowledged.file = told
    setattr(edits, "EmbeddingStore", Acknowledged)  # noqa: B010
    editor = edits.IndexEditor(index_dir, SETTINGS, OPTIONS)
    tell(told, "started")
    if action == "remove":
        edit = editor.remove([f"{number}.png" for number in range(count)])
    else:
        catalogue = read_catalogue(folder)
        edit = (editor.build if action == "build" else editor.add)(catalogue, SlowColours())
    tell(told, "published", edit.manifest.version)
