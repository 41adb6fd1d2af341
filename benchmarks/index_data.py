"""Embeddings to measure indexes on: real ones repeated with noise, and a made-up distribution for everyone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_index_load import embeddings_of
from lookalike.config import ModelSettings
from lookalike.embedding import Embedder
from lookalike.errors import SetupError
from training.evaluate_embedder import data_dir, embed_files, read_retrieval_manifest

DISTRIBUTIONS = ("real", "made-up")
QUERIES = 1000
_BLOCK = 20_000


def open_vectors(
    folder: Path, distribution: str, count: int, dim: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the catalogue `(count, dim)`, mapped from disk, and the queries `(QUERIES, dim)`; made once.

    Raises:
        SetupError: when the photos or the built embedder are missing, or its embeddings have another dimension.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items, queries = folder / f"items-{count}.npy", folder / "queries.npy"
    if not items.exists() or not queries.exists():
        seeds = _real_seeds(folder, dim) if distribution == "real" else None
        np.save(queries, _made(distribution, QUERIES, dim, seeds, seed=3))
        aside = items.with_suffix(".tmp.npy")
        _write(aside, count, dim, lambda start, rows: _made(distribution, rows, dim, seeds, seed=1000 + start))
        aside.rename(items)
    return np.load(items, mmap_mode="r"), np.load(queries)


def _write(path: Path, count: int, dim: int, block: Callable[[int, int], NDArray[np.float32]]) -> None:
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, dim))
    for start in range(0, count, _BLOCK):
        rows = min(_BLOCK, count - start)
        mapped[start : start + rows] = block(start, rows)
    mapped.flush()


def _made(distribution: str, count: int, dim: int, seeds: "Seeds | None", seed: int) -> NDArray[np.float32]:
    return embeddings_of(count, dim, seed) if seeds is None else seeds.repeated(count, seed)


class Seeds:
    """Real embeddings, and noise of their own shape that makes many of few.

    The noise lies where the embeddings vary (their covariance) and is as strong as makes a repeat as similar to its
    seed as a real embedding is to its nearest neighbour: repeats then have neighbourhoods as real ones do.
    """

    def __init__(self, embeddings: NDArray[np.float32]) -> None:
        self._embeddings = embeddings
        centred = embeddings - embeddings.mean(axis=0)
        values, axes = np.linalg.eigh(np.cov(centred, rowvar=False))
        self._shape = (axes * np.sqrt(np.maximum(values, 0))).T.astype(np.float32)
        self.nearest = float(np.median(_nearest_similarity(embeddings)))
        self._strength = self._strength_for(self.nearest)

    def repeated(self, count: int, seed: int) -> NDArray[np.float32]:
        """Return `(count, dim)` float32 L2-normalised: seeds drawn at random, each with noise of its own."""
        random = np.random.default_rng(seed)
        return self._noisy(random.integers(0, len(self._embeddings), count), self._strength, random)

    def _noisy(self, rows: NDArray[np.int64], strength: float, random: np.random.Generator) -> NDArray[np.float32]:
        noise = random.standard_normal((len(rows), len(self._shape)), dtype=np.float32) @ self._shape
        moved = self._embeddings[rows] + strength * noise
        return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), dtype=np.float32)

    def _strength_for(self, wanted: float) -> float:
        """Return the strength at which the median similarity of a repeat to its seed is `wanted`, by bisection."""
        rows = np.arange(min(2000, len(self._embeddings)))
        low, high = 0.0, 4.0
        for _ in range(20):
            middle = (low + high) / 2
            repeats = self._noisy(rows, middle, np.random.default_rng(0))
            similarity = float(np.median((repeats * self._embeddings[rows]).sum(axis=1)))
            low, high = (middle, high) if similarity > wanted else (low, middle)
        return (low + high) / 2


def _nearest_similarity(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    sample = np.random.default_rng(0).choice(len(embeddings), min(2000, len(embeddings)), replace=False)
    similarity = embeddings[sample] @ embeddings.T
    similarity[np.arange(len(sample)), sample] = -1
    return np.asarray(similarity.max(axis=1))


def _real_seeds(folder: Path, dim: int) -> Seeds:
    """Return the embeddings of the retrieval photos, by the built embedder; made once."""
    cached = folder / "seeds.npy"
    if not cached.exists():
        embedder = Embedder.load(Path("var/models/embedder"), ModelSettings.load())
        photos = [
            image for split in ("train", "test") for image in read_retrieval_manifest(data_dir() / "retrieval", split)
        ]
        np.save(cached, embed_files(embedder, embedder.preprocess, [image.path for image in photos]))
    embeddings = np.load(cached)
    if embeddings.shape[1] != dim:
        raise SetupError(
            f"the built embedder gives {embeddings.shape[1]} dimensions", allowed=f"--dim {embeddings.shape[1]}"
        )
    return Seeds(embeddings)
