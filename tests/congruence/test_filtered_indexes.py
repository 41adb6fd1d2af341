"""Filters of every width on each kind of index, set as it is by default, against brute force."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_index_load import embeddings_of
from lookalike.config import IndexSettings
from lookalike.evaluation import ann_recall_at_k
from lookalike.index.draft import Draft
from lookalike.index.faiss_index import FaissIndex, open_index
from lookalike.index.items import ItemRecord
from lookalike.index.manifest import BuildSettings, Kind
from lookalike.index.store import KnownEmbeddings
from lookalike.index.writer import IndexWriter

COUNT, DIM, K = 40_000, 64, 10
SHARES = [0.5, 0.1, 0.01, 0.001]


EMBEDDINGS, QUERIES = embeddings_of(COUNT, DIM, seed=2), embeddings_of(100, DIM, seed=3)
# Which rows a filter takes first: those that chance names, or those on one side, as a colour or a category does.
ORDERS = {
    "at random": np.random.default_rng(3).permutation(COUNT),
    "with the embedding": np.argsort(np.argsort(-EMBEDDINGS[:, 0])),
}


def narrowest(share: float) -> str:
    """Return the narrowest filter that a row meets which comes after this share of the others."""
    return str(min(width for width in [*SHARES, 1.0] if share < width))


@pytest.fixture(scope="module", params=["flat", "hnsw", "ivf"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FaissIndex:
    kind: Kind = request.param
    records = [
        ItemRecord(
            item_id=str(row),
            content_sha256=hashlib.sha256(str(row).encode()).digest(),
            path=f"{row}.jpg",
            attributes={name: narrowest(order[row] / COUNT) for name, order in ORDERS.items()},
        )
        for row in range(COUNT)
    ]
    known = KnownEmbeddings(DIM)
    known.include([record.content_sha256 for record in records], EMBEDDINGS)
    folder: Path = tmp_path_factory.mktemp("index")
    with IndexWriter(folder) as writer:
        build = BuildSettings(hnsw_m=32, ef_construction=100)
        writer.publish(Draft("random", "f" * 16, DIM, kind, build, records), known, base=None)
    return open_index(folder, IndexSettings())


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", ORDERS)
def test_a_filter_of_any_width_finds_99_of_100(index: FaissIndex, name: str, share: float) -> None:
    rows = np.flatnonzero(ORDERS[name] / COUNT < share)
    true = rows[np.argsort(-(QUERIES @ EMBEDDINGS[rows].T), axis=1)[:, :K]]
    hits = index.search(QUERIES, K, {name: [str(width) for width in SHARES if width <= share]})
    found = np.array([[int(hit.item_id) for hit in some] for some in hits])
    assert ann_recall_at_k(found, true, K) >= 0.99
