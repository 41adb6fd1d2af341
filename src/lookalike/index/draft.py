"""What a new version shall hold, and its files: embeddings, items, and the structure of its kind."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lookalike.index.choice import choose_index_kind
from lookalike.index.durable import sha256_of
from lookalike.index.hnsw import build_graph
from lookalike.index.items import ItemRecord, write_items
from lookalike.index.ivf import build_lists
from lookalike.index.manifest import ITEMS, STRUCTURE_FILES, VECTORS, BuildSettings, FileEntry, WantedKind
from lookalike.index.snapshot import Snapshot
from lookalike.index.store import KnownEmbeddings
from lookalike.index.structures import Before

_BLOCK_ROWS = 2048
_BUILDERS = {"hnsw": build_graph, "ivf": build_lists}


@dataclass(frozen=True)
class Draft:
    """What a new version shall hold; the records' order is the order of the rows."""

    embedder: str
    fingerprint: str
    dim: int
    kind: WantedKind
    build: BuildSettings
    records: Sequence[ItemRecord]

    def settled(self) -> "Draft":
        """Return the draft with its kind chosen, where the kind follows the count."""
        if self.kind != "auto" and not self.build.kind_by_count:
            return self
        kind = choose_index_kind(len(self.records), self.dim, before="flat" if self.kind == "auto" else self.kind)
        return replace(self, kind=kind, build=self.build.model_copy(update={"kind_by_count": True}))


def write_rows(aside: Path, draft: Draft, known: KnownEmbeddings) -> tuple[dict[str, FileEntry], list[str]]:
    """Write embeddings and items into the folder `aside`; return their entries, and the attributes' names."""
    _write_vectors(aside / VECTORS, draft, known)
    attributes = write_items(aside / ITEMS, draft.records)
    return {name: _entry(aside / name) for name in (VECTORS, ITEMS)}, attributes


def _write_vectors(path: Path, draft: Draft, known: KnownEmbeddings) -> None:
    # Written as a stream: a write into a map of a full disk ends the process (SIGBUS) instead of raising.
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(draft.records), draft.dim)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in _blocks([record.content_sha256 for record in draft.records], known):
            file.write(block)


def _blocks(keys: Sequence[bytes], known: KnownEmbeddings) -> Iterator[memoryview]:
    for start in range(0, len(keys), _BLOCK_ROWS):
        yield known.gather(keys[start : start + _BLOCK_ROWS]).data


def write_structure(aside: Path, draft: Draft, base: Snapshot | None) -> dict[str, FileEntry]:
    """Write what the draft's kind searches by, learning from `base` where that fits; return its entry, if any."""
    if draft.kind == "auto" or draft.kind not in STRUCTURE_FILES:
        return {}
    name = STRUCTURE_FILES[draft.kind]
    vectors: NDArray[np.float32] = np.zeros((0, draft.dim), dtype=np.float32)
    if draft.records:
        vectors = np.load(aside / VECTORS, mmap_mode="r", allow_pickle=False)
    _BUILDERS[draft.kind](aside / name, vectors, draft.build, _before(base, draft, name))
    return {name: _entry(aside / name)}


def _before(base: Snapshot | None, draft: Draft, name: str) -> Before | None:
    """Return the structure of `base`, where `draft` is made alike and holds much of the same."""
    if base is None:
        return None
    manifest = base.manifest
    if (manifest.kind, manifest.fingerprint, manifest.build) != (draft.kind, draft.fingerprint, draft.build):
        return None
    before, now = ([record.content_sha256 for record in records] for records in (base.items.records(), draft.records))
    rows_stay = before == now[: len(before)]
    # What was learned from another catalogue fits this one badly.
    alike = rows_stay or 2 * len(set(before) & set(now)) >= len(now)
    return Before(base.version_dir / name, rows_stay) if alike else None


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
