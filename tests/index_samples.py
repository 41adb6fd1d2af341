"""Small indexes in folders, and what they hold byte by byte."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.index.items import ItemRecord
from lookalike.index.layout import IndexLayout
from lookalike.index.manifest import BuildSettings, Kind
from lookalike.index.store import KnownEmbeddings
from lookalike.index.verify import verify_snapshot
from lookalike.index.writer import Draft, IndexWriter

COUNT, DIM = 600, 16


def embeddings_of(count: int) -> NDArray[np.float32]:
    made = np.random.default_rng(0).standard_normal((count, DIM)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def records_of(count: int) -> list[ItemRecord]:
    return [
        ItemRecord(
            f"ü/{number}",
            hashlib.sha256(str(number).encode()).digest(),
            f"/images/{number}.jpg",
            f"Nr. {number}" if number % 2 else None,
            "" if number % 5 else f"https://shop/{number}",
            {"half": str(number % 2)} if number % 3 else {},
        )
        for number in range(count)
    ]


def publish(folder: Path, kind: Kind = "flat", count: int = COUNT, fingerprint: str = "f" * 16) -> Path:
    known, records = KnownEmbeddings(DIM), records_of(count)
    known.include([record.content_sha256 for record in records], embeddings_of(count))
    build = BuildSettings(hnsw_m=16, ef_construction=80) if kind == "hnsw" else BuildSettings()
    with IndexWriter(folder) as writer:
        writer.publish(Draft("random", fingerprint, DIM, kind, build, records), known, base=None)
    return folder


def files_of(folder: Path) -> tuple[bytes, ...]:
    version = verify_snapshot(IndexLayout(folder).published_dir()).version_dir
    return tuple((version / name).read_bytes() for name in ("vectors.npy", "items.arrow"))
