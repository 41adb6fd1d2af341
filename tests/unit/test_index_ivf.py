"""Inverted lists: how many there are, and what of them outlives an edit."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from lookalike.config import IndexSettings
from lookalike.index.draft import Draft
from lookalike.index.edits import IndexEditor
from lookalike.index.faiss_index import FaissIndex, open_index
from lookalike.index.items import ItemRecord
from lookalike.index.ivf import lists_for
from lookalike.index.manifest import BuildSettings
from lookalike.index.store import KnownEmbeddings
from lookalike.index.verify import measure_recall
from lookalike.index.writer import IndexWriter
from tests.colour_embedder import ColourEmbedder, catalogue_of

DIM = 16


@pytest.mark.parametrize(("count", "lists"), [(0, 1), (1, 1), (3, 3), (10_000, 256), (100_000, 512), (1_000_000, 2048)])
def test_lists_grow_with_the_root_of_the_count(count: int, lists: int) -> None:
    assert lists_for(count) == lists


def record(number: int) -> ItemRecord:
    key = hashlib.sha256(str(number).encode()).digest()
    return ItemRecord(str(number), key, path=f"{number}.png")


def publish(index_dir: Path, numbers: Sequence[int]) -> FaissIndex:
    """Publish the items of these numbers over what is there, each with an embedding of its own."""
    records = [record(number) for number in numbers]
    vectors = np.stack([np.random.default_rng(number).standard_normal(DIM, dtype=np.float32) for number in numbers])
    known = KnownEmbeddings(DIM)
    known.include([r.content_sha256 for r in records], vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    with IndexWriter(index_dir) as writer:
        base = writer.current() if writer.layout.current_version() else None
        writer.publish(Draft("random", "f" * 16, DIM, "ivf", BuildSettings(), records), known, base)
    return open_index(index_dir, IndexSettings(ivf_probes=8))


def centres(index: FaissIndex, index_dir: Path) -> NDArray[np.float32]:
    lists: Any = faiss.read_index(str(index_dir / "versions" / index.info.version / "ivf.faiss"))
    return np.asarray(lists.quantizer.reconstruct_n(0, lists.nlist))


def test_what_was_learned_serves_again_after_a_removal_and_not_for_another_catalogue(tmp_path: Path) -> None:
    learned = centres(publish(tmp_path, range(300)), tmp_path)
    fewer = publish(tmp_path, [number for number in range(300) if number % 10])
    np.testing.assert_array_equal(centres(fewer, tmp_path), learned)
    assert measure_recall(fewer, queries=50, k=5).ann_recall_at_k > 0.9
    another = publish(tmp_path, range(200, 500))
    assert not np.array_equal(centres(another, tmp_path), learned)
    assert measure_recall(another, queries=50, k=5).ann_recall_at_k > 0.9


def test_inverted_lists_answer_also_when_every_item_was_removed(tmp_path: Path) -> None:
    editor = IndexEditor(tmp_path / "index", IndexSettings(kind="ivf"))
    editor.build(catalogue_of(tmp_path, 3), ColourEmbedder())
    editor.remove(["item-0", "item-1", "item-2"])
    query: NDArray[np.float32] = np.ones((1, ColourEmbedder().dim), dtype=np.float32)
    assert open_index(tmp_path / "index").search(query, 5) == [[]]
    editor.add(catalogue_of(tmp_path, 4), ColourEmbedder())
    assert measure_recall(open_index(tmp_path / "index"), queries=4, k=2).ann_recall_at_k == 1.0
