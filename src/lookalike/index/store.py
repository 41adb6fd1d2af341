"""Embeddings that are paid for: those of the published version, and chunks kept until a version holds them."""

import hashlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.index.durable import replace_file, sha256_of, told_when_not_stored

log = logging.getLogger(__name__)


class KnownEmbeddings:
    """Finds an embedding by the sha256 (32 bytes) of the encoded image that it was made of."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._blocks: list[NDArray[np.float32]] = []
        self._places: dict[bytes, tuple[int, int]] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._places

    def include(self, keys: Sequence[bytes], embeddings: NDArray[np.float32]) -> None:
        """Know `embeddings` `(n, dim)` float32 under `keys`; what is known already stays."""
        self._blocks.append(embeddings)
        for row, key in enumerate(keys):
            self._places.setdefault(key, (len(self._blocks) - 1, row))

    def gather(self, keys: Sequence[bytes]) -> NDArray[np.float32]:
        """Return the embeddings `(len(keys), dim)` float32 in the order of `keys`."""
        gathered = np.empty((len(keys), self.dim), dtype=np.float32)
        for slot, key in enumerate(keys):
            block, row = self._places[key]
            gathered[slot] = self._blocks[block][row]
        return gathered


class EmbeddingStore:
    """Chunks of embeddings on disk for one embedder and one preparation of its images.

    A chunk is one `.npy` file of records (sha256, embedding), named by the hash of its content: what a crash or a
    failing disk leaves behind is recognised and embedded again.
    """

    def __init__(self, embeddings_dir: Path, fingerprint: str, preparation: str, dim: int) -> None:
        self.folder = embeddings_dir / f"{fingerprint}-{hashlib.sha256(preparation.encode()).hexdigest()[:8]}"
        self.known = KnownEmbeddings(dim)
        self._record = np.dtype([("sha256", "u1", (32,)), ("embedding", "<f4", (dim,))])
        for path in sorted(self.folder.glob("*.npy")):
            self._load(path)

    def save(self, keys: Sequence[bytes], embeddings: NDArray[np.float32]) -> None:
        """Keep `embeddings` `(n, dim)`; on return they are on the disk.

        Raises:
            SetupError: no space is left.
        """
        chunk = np.empty(len(keys), dtype=self._record)
        chunk["sha256"] = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 32)
        chunk["embedding"] = embeddings
        buffer = io.BytesIO()
        np.save(buffer, chunk, allow_pickle=False)
        data = buffer.getvalue()
        with told_when_not_stored(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            replace_file(self.folder / f"{hashlib.sha256(data).hexdigest()}.npy", data)
        self.known.include(keys, embeddings)

    def drop_published(self, published: set[bytes]) -> None:
        """Delete the chunks of which every embedding is in the published version; the others are still needed."""
        for path in self.folder.glob("*.npy"):
            chunk = np.load(path, mmap_mode="r", allow_pickle=False)
            if published.issuperset(_keys(chunk)):
                path.unlink()

    def _load(self, path: Path) -> None:
        if sha256_of(path) != path.stem:
            log.warning("%s is damaged: its images will be embedded again", path)
            path.unlink()
            return
        chunk = np.load(path, mmap_mode="r", allow_pickle=False)
        if chunk.dtype == self._record:
            self.known.include(_keys(chunk), chunk["embedding"])


def _keys(chunk: NDArray[np.void]) -> list[bytes]:
    flat = np.ascontiguousarray(chunk["sha256"]).tobytes()
    return [flat[start : start + 32] for start in range(0, len(flat), 32)]
