"""What images look like to the embedder: near-duplicates, neighbours on a map, the best images of a dimension."""

import hashlib
import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from lookalike.config import ImageLimits
from lookalike.errors import InvalidOption, LookalikeError, SetupError
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.images import decode_image
from lookalike.index.durable import replace_file

_BATCH_IMAGES = 16
_PERPLEXITY = 30
_SEED = 0

Floats = NDArray[np.float32]


class Looks:
    """The embeddings of some images, made at the first question and kept in a file; any thread may ask."""

    def __init__(self, paths: Sequence[Path], load: Callable[[], WholeImageEmbedder], cache_dir: Path) -> None:
        """`load` returns the embedder; `cache_dir` keeps embeddings by the embedder and by the images' state."""
        self._paths, self._load, self._cache_dir = list(paths), load, cache_dir
        self._lock = threading.Lock()
        self._rows: NDArray[np.int64] | None = None
        self._embeddings: Floats | None = None
        self._map: Floats | None = None
        self.done = 0  # images that are embedded already

    def near_duplicates(self, similarity: float) -> list[list[int]]:
        """Return groups of images, by number, that a chain of similarities of at least `similarity` connects.

        The largest group is first; within one, the images as they came.
        """
        rows, embeddings = self._ready()
        index = faiss.IndexFlatIP(embeddings.shape[1])
        index.add(embeddings)
        limits, _, found = index.range_search(embeddings, similarity)
        group = list(range(len(rows)))

        def first_of(at: int) -> int:
            while group[at] != at:
                group[at] = group[group[at]]
                at = group[at]
            return at

        for at in range(len(rows)):
            for other in found[limits[at] : limits[at + 1]]:
                low, high = sorted((first_of(at), first_of(int(other))))
                group[high] = low
        members: dict[int, list[int]] = {}
        for at in range(len(rows)):
            members.setdefault(first_of(at), []).append(int(rows[at]))
        return sorted((group for group in members.values() if len(group) > 1), key=lambda group: (-len(group), group))

    def by_dimension(self, dimension: int) -> list[int]:
        """Return the images, by number, with the biggest value of one dimension of the embedding first.

        Raises:
            InvalidOption: the embedding has no such dimension.
        """
        rows, embeddings = self._ready()
        if not 0 <= dimension < embeddings.shape[1]:
            raise InvalidOption(f"no dimension {dimension}", allowed=f"0 to {embeddings.shape[1] - 1}")
        return [int(row) for row in rows[np.argsort(-embeddings[:, dimension], kind="stable")]]

    def positions(self) -> list[tuple[int, float, float]]:
        """Return each image's number and its place, 0 to 1 each way, on a map where neighbours look alike (t-SNE).

        Source: van der Maaten and Hinton 2008, "Visualizing Data using t-SNE".

        Raises:
            SetupError: scikit-learn is not installed, or there are fewer than four images.
        """
        rows, embeddings = self._ready()
        with self._lock:
            if self._map is None:
                self._map = _projected(embeddings)
        return [(int(row), round(float(x), 4), round(float(y), 4)) for row, (x, y) in zip(rows, self._map, strict=True)]

    def _ready(self) -> tuple[NDArray[np.int64], Floats]:
        """Return the numbers of the images that could be read, and their embeddings `(n, dim)` of length 1."""
        with self._lock:
            if self._rows is None or self._embeddings is None:
                self._rows, self._embeddings = self._read()
                self.done = len(self._paths)
            return self._rows, self._embeddings

    def _read(self) -> tuple[NDArray[np.int64], Floats]:
        embedder = self._load()
        file = self._cache_dir / f"{embedder.fingerprint}-{_state_of(self._paths)}.npz"
        if file.exists():
            with np.load(file, allow_pickle=False) as kept:
                return kept["rows"], kept["embeddings"]
        rows: list[int] = []
        parts: list[Floats] = []
        for start in range(0, len(self._paths), _BATCH_IMAGES):
            numbers = range(start, min(start + _BATCH_IMAGES, len(self._paths)))
            pixels = {number: _pixels(self._paths[number], embedder) for number in numbers}
            good = {number: one for number, one in pixels.items() if one is not None}
            if good:
                rows += good
                parts.append(embedder.embed(np.stack(list(good.values()))))
            self.done = numbers.stop
        if not parts:
            raise SetupError("none of the images can be read")
        found = np.array(rows, np.int64), np.concatenate(parts)
        _keep(file, *found)
        return found


def _pixels(path: Path, embedder: WholeImageEmbedder) -> NDArray[np.uint8] | None:
    """Return an image ready for the network; None where it cannot be read: the grid shows that."""
    try:
        return embedder.prepare(decode_image(path.read_bytes(), ImageLimits()).pixels)
    except (OSError, LookalikeError):
        return None


def _state_of(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            state = path.stat()
            digest.update(f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        except OSError:
            digest.update(f"{path}\0gone\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def _keep(file: Path, rows: NDArray[np.int64], embeddings: Floats) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, rows=rows, embeddings=embeddings)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, buffer.getvalue())


def _projected(embeddings: Floats) -> Floats:
    """Return a map `(n, 2)` of embeddings, each axis from 0 to 1."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise SetupError("the map needs scikit-learn", allowed="pip install lookalike[train]") from error
    if len(embeddings) < 4:
        raise SetupError("a map needs at least four images")
    perplexity = min(_PERPLEXITY, (len(embeddings) - 1) / 3)
    # Of vectors of length 1, the squared distance is twice what the cosine lacks of 1.
    placed = TSNE(init="pca", perplexity=perplexity, random_state=_SEED).fit_transform(embeddings)
    low, high = placed.min(axis=0), placed.max(axis=0)
    projected: Floats = ((placed - low) / np.maximum(high - low, 1e-9)).astype(np.float32)
    return projected
