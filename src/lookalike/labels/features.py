"""Images as pixels of the network's size and as the embedder's features; both are kept, as decoding costs the most."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.config import ImageLimits
from lookalike.embedding import Embedder
from lookalike.errors import LookalikeError
from lookalike.images import decode_image
from lookalike.labels.problems import Problem
from lookalike.labels.task import Example
from lookalike.preprocessing import Preprocess
from lookalike.progress import progress_shown

BATCH = 8  # measured: larger batches are slower an image on two cores

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class ArrayCache:
    """One `.npy` file an image; an image that was written since has another key. `folder` None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, path: Path) -> NDArray[np.generic] | None:
        """Return what is kept of the image at `path`; None when that is nothing, or damaged."""
        if self._folder is None:
            return None
        try:
            kept: NDArray[np.generic] = np.load(self._file(path), allow_pickle=False)
            return kept
        except (OSError, ValueError, EOFError):
            return None

    def put(self, path: Path, array: NDArray[np.generic]) -> None:
        """Keep `array`, whole or not at all."""
        if self._folder is None:
            return
        file = self._file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as out:
            np.save(out, array, allow_pickle=False)
        os.replace(partial, file)

    def _file(self, path: Path) -> Path:
        assert self._folder is not None
        status = path.stat()
        key = hashlib.sha256(f"{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}".encode()).hexdigest()[:32]
        return self._folder / key[:2] / f"{key}.npy"


def decode_and_fit(path: Path, preprocess: Preprocess) -> Pixels:
    """Return the image at `path` as one network input `(h, w, 3)`.

    Raises:
        LookalikeError, OSError: when it cannot be read.
    """
    return preprocess.fit(decode_image(path.read_bytes(), ImageLimits()).pixels)


class PreparedImages:
    """Decoded and resized images, each prepared once."""

    def __init__(self, preprocess: Preprocess, cache_dir: Path | None) -> None:
        geometry = f"{preprocess.width_px}x{preprocess.height_px}-{preprocess.resize}-{preprocess.interpolation}"
        self._preprocess, self.shape = preprocess, (preprocess.height_px, preprocess.width_px, 3)
        self._cache = ArrayCache(None if cache_dir is None else cache_dir / "pixels" / geometry)

    def pixels(self, path: Path) -> Pixels:
        """Return the image at `path` as one network input `(h, w, 3)`.

        Raises:
            LookalikeError, OSError: when it cannot be read.
        """
        kept = self._cache.get(path)
        if kept is not None and kept.dtype == np.uint8 and kept.shape == self.shape:
            return kept.astype(np.uint8, copy=False)
        pixels = decode_and_fit(path, self._preprocess)
        self._cache.put(path, pixels)
        return pixels


@dataclass(frozen=True)
class Featured:
    """Features `(n, feature_dim)` of the examples that could be read, in their order, and what the others lack."""

    examples: list[Example]
    features: Floats
    problems: list[Problem]


class FeatureReader:
    """The embedder's features of listed images, with `preprocess` in front: the embedder's, or another resize mode."""

    def __init__(self, embedder: Embedder, preprocess: Preprocess, cache_dir: Path | None, threads: int = 1) -> None:
        folder = None if cache_dir is None else cache_dir / "features" / f"{embedder.fingerprint}-{preprocess.resize}"
        self._embedder, self._threads = embedder, threads
        self._images, self._cache = PreparedImages(preprocess, cache_dir), ArrayCache(folder)

    def read(self, examples: Sequence[Example], what: str) -> Featured:
        """Return the features of `examples`; progress is shown as `what`."""
        rows: dict[int, Floats] = {}
        problems: list[Problem] = []
        with progress_shown(what, len(examples)) as advance:
            for batch in self._batches(examples, rows, problems):
                for row, feature in zip(batch, self._embed(batch), strict=True):
                    rows[row] = feature
                    self._cache.put(examples[row].path, feature)
                advance(len(batch))
            advance(len(examples) - len(rows))
        order = sorted(rows)
        matrix = np.stack([rows[row] for row in order]) if order else np.empty((0, self._embedder.feature_dim), "f4")
        return Featured([examples[row] for row in order], matrix.astype(np.float32, copy=False), problems)

    def _embed(self, batch: dict[int, Pixels]) -> Floats:
        pixels = np.stack(list(batch.values())) if batch else np.empty((0, *self._images.shape), np.uint8)
        return self._embedder.embed(pixels).features

    def _batches(
        self, examples: Sequence[Example], rows: dict[int, Floats], problems: list[Problem]
    ) -> Iterator[dict[int, Pixels]]:
        """Yield the pixels of what is not kept yet, by row; the next batch is prepared while one is embedded."""
        unknown = []
        for row, example in enumerate(examples):
            kept = self._cache.get(example.path) if example.path.is_file() else None
            if kept is not None and kept.shape == (self._embedder.feature_dim,):
                rows[row] = kept.astype(np.float32, copy=False)
            else:
                unknown.append(row)
        chunks = [unknown[start : start + BATCH] for start in range(0, len(unknown), BATCH)]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="prepare") as executor:
            waiting: deque[Future[tuple[dict[int, Pixels], list[Problem]]]] = deque()
            for chunk in chunks:
                waiting.append(executor.submit(self._prepared, examples, chunk))
                if len(waiting) > self._threads:
                    yield _collected(waiting.popleft().result(), problems)
            while waiting:
                yield _collected(waiting.popleft().result(), problems)

    def _prepared(self, examples: Sequence[Example], chunk: Sequence[int]) -> tuple[dict[int, Pixels], list[Problem]]:
        pixels: dict[int, Pixels] = {}
        problems: list[Problem] = []
        for row in chunk:
            try:
                pixels[row] = self._images.pixels(examples[row].path)
            except LookalikeError as error:
                problems.append(examples[row].problem(f"{examples[row].name}: {error.message}"))
            except OSError as error:
                problems.append(examples[row].problem(f"{examples[row].name}: {error.strerror or error}"))
        return pixels, problems


def _collected(prepared: tuple[dict[int, Pixels], list[Problem]], problems: list[Problem]) -> dict[int, Pixels]:
    pixels, wrong = prepared
    problems += wrong
    return pixels
