"""The same cases on each kind of index, against brute force."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lookalike.config import IndexSettings
from lookalike.errors import IndexMismatch, InvalidOption
from lookalike.index.draft import Draft
from lookalike.index.faiss_index import FaissIndex, open_index
from lookalike.index.hnsw import Graph
from lookalike.index.items import ItemRecord
from lookalike.index.ivf import InvertedLists
from lookalike.index.manifest import BuildSettings, Kind
from lookalike.index.protocol import VectorIndex
from lookalike.index.store import KnownEmbeddings
from lookalike.index.verify import measure_recall
from lookalike.index.writer import IndexWriter
from lookalike.schemas import Filters, Hit
from tests.milvus_running import catalogue_in, filled, manifest_of

COUNT, DIM = 3000, 64
SETTINGS = IndexSettings(ef_search=64, ivf_probes=16)
# Milvus learns the centres of its lists in another way: as many true hits lie in more of them.
MILVUS_SETTINGS = IndexSettings(ef_search=64, ivf_probes=64)
KINDS: list[Kind] = ["flat", "hnsw", "ivf"]
MILVUS = [f"milvus {kind}" for kind in KINDS]
APPROXIMATE = {"hnsw": Graph, "ivf": InvertedLists}


def embeddings_of(count: int, seed: int) -> NDArray[np.float32]:
    """Return `(count, DIM)` float32 L2-normalised, in clusters as images of products are."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((60, DIM))
    embeddings = centres[random.integers(0, 60, count)] + 0.7 * random.standard_normal((count, DIM))
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), dtype=np.float32)


def record_of(number: int, key: bytes) -> ItemRecord:
    attributes = {"half": str(number % 2), "hundredth": str(number % 100), "all": "yes"}
    if number % 3:
        attributes["some"] = "größe"
    return ItemRecord(f"Artikel {number} – ü", key, f"/images/{number}.jpg", f"Nr. {number}", None, attributes)


def build_of(kind: Kind) -> BuildSettings:
    return BuildSettings(hnsw_m=16, ef_construction=80) if kind == "hnsw" else BuildSettings()


def publish(index_dir: Path, kind: Kind, embeddings: NDArray[np.float32], records: Sequence[ItemRecord]) -> None:
    known = KnownEmbeddings(DIM)
    known.include([record.content_sha256 for record in records], embeddings)
    with IndexWriter(index_dir) as writer:
        writer.publish(Draft("random", "f" * 16, DIM, kind, build_of(kind), records), known, base=None)


@contextmanager
def opened(
    folder: Path, engine: str, embeddings: NDArray[np.float32], records: Sequence[ItemRecord]
) -> Iterator[VectorIndex]:
    """Yield an index of these items: `engine` is a kind, after the word `milvus` for one in Milvus."""
    place, _, kind = engine.rpartition(" ")
    if place == "milvus":
        with catalogue_in(folder) as catalogue:
            yield filled(catalogue, manifest_of(kind, DIM, build=build_of(kind)), embeddings, records, MILVUS_SETTINGS)
    else:
        publish(folder, kind, embeddings, records)
        yield open_index(folder, SETTINGS)


def records_of(embeddings: NDArray[np.float32]) -> list[ItemRecord]:
    return [record_of(number, hashlib.sha256(row.tobytes()).digest()) for number, row in enumerate(embeddings)]


@pytest.fixture(scope="module")
def embeddings() -> NDArray[np.float32]:
    return embeddings_of(COUNT, seed=1)


@pytest.fixture(scope="module")
def queries() -> NDArray[np.float32]:
    return embeddings_of(20, seed=2)


@pytest.fixture(
    scope="module", params=[*KINDS, "hnsw, also for narrow filters", "ivf, also for narrow filters", *MILVUS]
)
def index(
    request: pytest.FixtureRequest, embeddings: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VectorIndex]:
    engine = request.param.partition(",")[0]
    with (
        opened(tmp_path_factory.mktemp("index"), engine, embeddings, records_of(embeddings)) as index,
        pytest.MonkeyPatch.context() as patch,
    ):
        if "filters" in request.param:
            # So few items would always be compared one by one: let the structure answer every filter here.
            patch.setattr(APPROXIMATE[engine], "exact_is_faster", lambda self, qualifying, k: False)
        yield index


def brute_force(
    embeddings: NDArray[np.float32], query: NDArray[np.float32], k: int, qualifies: NDArray[np.bool_] | None = None
) -> list[tuple[str, float]]:
    """Return the item_id and similarity of the `k` most similar qualifying rows."""
    similarities = np.clip(embeddings @ query, -1, 1)
    rows = np.arange(len(embeddings)) if qualifies is None else np.flatnonzero(qualifies)
    best = rows[np.argsort(-similarities[rows], kind="stable")][:k]
    return [(f"Artikel {row} – ü", float(similarities[row])) for row in best]


def assert_same(index: VectorIndex, found: Sequence[Hit], wanted: Sequence[tuple[str, float]]) -> None:
    """Compare with brute force: exactly for exact search; the others may miss one in ten, but mistake no similarity."""
    assert len(found) == len(wanted)
    similarities = [hit.similarity for hit in found]
    assert similarities == sorted(similarities, reverse=True)
    if index.info.kind == "flat":
        assert [hit.item_id for hit in found] == [item_id for item_id, _ in wanted]
    true = dict(wanted)
    shared = [hit for hit in found if hit.item_id in true]
    assert len(shared) >= 0.9 * len(wanted)
    assert all(hit.similarity == pytest.approx(true[hit.item_id], abs=1e-5) for hit in shared)


def test_it_is_a_vector_index(index: VectorIndex) -> None:
    offered: VectorIndex = index
    assert (offered.info.count, offered.manifest.dim) == (COUNT, DIM)


@pytest.mark.parametrize("top_k", [1, 10, 100])
def test_the_nearest_items_come_back_best_first(
    index: VectorIndex, embeddings: NDArray[np.float32], queries: NDArray[np.float32], top_k: int
) -> None:
    for query, found in zip(queries, index.search(queries, top_k), strict=True):
        assert_same(index, found, brute_force(embeddings, query, top_k))


@pytest.mark.parametrize(
    ("filters", "share"),
    [
        ({"hundredth": ["7"]}, 0.01),
        ({"hundredth": ["7", "8", "nothing"], "half": ["0"]}, 0.01),
        ({"half": ["1"]}, 0.5),
        ({"some": ["größe"]}, 0.67),
        ({"all": ["yes"]}, 1.0),
    ],
)
def test_filters_return_the_true_nearest_of_those_that_qualify(
    index: VectorIndex, embeddings: NDArray[np.float32], queries: NDArray[np.float32], filters: Filters, share: float
) -> None:
    records = [record_of(number, b"") for number in range(COUNT)]
    qualifies = np.array([all(r.attributes.get(name) in values for name, values in filters.items()) for r in records])
    assert qualifies.mean() == pytest.approx(share, abs=0.005)
    for query, found in zip(queries, index.search(queries, 10, filters), strict=True):
        assert_same(index, found, brute_force(embeddings, query, 10, qualifies))


def test_as_many_hits_come_back_as_items_qualify(index: VectorIndex, queries: NDArray[np.float32]) -> None:
    for found in index.search(queries, 1000, {"hundredth": ["7"]}):
        assert len({hit.item_id for hit in found}) == COUNT // 100
        assert {hit.attributes["hundredth"] for hit in found} == {"7"}


def test_more_hits_than_items_gives_every_item_once(index: VectorIndex, queries: NDArray[np.float32]) -> None:
    (found,) = index.search(queries[:1], COUNT + 500)
    assert len({hit.item_id for hit in found}) == len(found) == COUNT


@pytest.mark.parametrize("filters", [{"half": ["unheard of"]}, {"half": []}, {"half": ["0"], "hundredth": ["7"]}])
def test_a_filter_that_nothing_meets_gives_no_hits(
    index: VectorIndex, queries: NDArray[np.float32], filters: Filters
) -> None:
    assert index.search(queries, 10, filters) == [[] for _ in queries]


def test_an_unknown_attribute_is_refused_with_those_there_are(index: VectorIndex, queries: NDArray[np.float32]) -> None:
    with pytest.raises(InvalidOption, match="colour, size") as refused:
        index.search(queries, 10, {"size": ["1"], "colour": ["red"], "half": ["0"]})
    assert refused.value.allowed == ["all", "half", "hundredth", "some"]


def test_min_similarity_cuts(index: VectorIndex, embeddings: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
    floor = brute_force(embeddings, queries[0], 6)[-1][1] - 1e-6
    (found,) = index.search(queries[:1], 50, min_similarity=floor)
    assert_same(index, found, brute_force(embeddings, queries[0], 6))


def test_an_item_finds_itself_at_a_similarity_of_at_most_one(
    index: VectorIndex, embeddings: NDArray[np.float32]
) -> None:
    for row, found in enumerate(index.search(embeddings[:200], 1)):
        assert found[0].item_id == f"Artikel {row} – ü"
        assert 1 - 1e-5 < found[0].similarity <= 1


def test_hits_carry_what_the_catalogue_says(index: VectorIndex, embeddings: NDArray[np.float32]) -> None:
    (found,) = index.search(embeddings[4:5], 1)
    assert (found[0].title, found[0].url) == ("Nr. 4", None)
    assert found[0].attributes == {"half": "0", "hundredth": "4", "all": "yes", "some": "größe"}


def test_another_dim_is_refused_and_both_are_named(index: VectorIndex) -> None:
    with pytest.raises(IndexMismatch, match=r"shape \(1, 63\).*takes \(n, 64\)"):
        index.search(np.zeros((1, 63), np.float32), 10)


def test_no_queries_give_no_results(index: VectorIndex) -> None:
    assert index.search(np.zeros((0, DIM), np.float32), 10) == []


def test_searches_from_many_threads_agree_with_one(index: VectorIndex, queries: NDArray[np.float32]) -> None:
    cases: list[Filters | None] = [None, {"half": ["1"]}, {"hundredth": ["7"]}]
    some = queries[:6]
    alone = [index.search(query[None], 10, filters) for query in some for filters in cases]
    with ThreadPoolExecutor(8) as executor:
        work = [executor.submit(index.search, query[None], 10, filters) for query in some for filters in cases]
        assert [done.result() for done in work] == alone


def test_the_recall_against_exact_search_is_reported(index: VectorIndex) -> None:
    if not isinstance(index, FaissIndex):
        pytest.skip("the report compares rows of a file: a collection has none, and is compared by `index migrate`")
    report = measure_recall(index, queries=100, k=10)
    assert (report.queries, report.k) == (100, 10)
    assert report.ann_recall_at_k >= (1.0 if index.info.kind == "flat" else 0.95)


@pytest.mark.parametrize("engine", [*KINDS, *MILVUS])
def test_an_empty_index_is_searched_without_hits(tmp_path: Path, engine: str, queries: NDArray[np.float32]) -> None:
    with opened(tmp_path, engine, np.zeros((0, DIM), np.float32), []) as index:
        assert index.search(queries[:2], 10) == [[], []]


@pytest.mark.parametrize("engine", [*KINDS, *MILVUS])
def test_items_with_one_and_the_same_embedding_are_all_found(tmp_path: Path, engine: str) -> None:
    embeddings = np.repeat(embeddings_of(1, seed=3), 50, axis=0)
    records = [record_of(n, hashlib.sha256(bytes([n])).digest()) for n in range(50)]
    with opened(tmp_path, engine, embeddings, records) as index:
        (found,) = index.search(embeddings[:1], 50)
    assert len({hit.item_id for hit in found}) == 50


@pytest.mark.parametrize("kind", KINDS)
def test_a_collection_that_grew_finds_as_well_as_a_new_one(
    tmp_path: Path, kind: Kind, embeddings: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    records = records_of(embeddings)
    with opened(tmp_path, f"milvus {kind}", embeddings[:2500], records[:2500]) as index:
        index.upsert(records[2500:], embeddings[2500:])
        for query, found in zip(queries, index.search(queries, 10), strict=True):
            assert_same(index, found, brute_force(embeddings, query, 10))


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_extended_structure_finds_as_well_as_a_new_one(
    tmp_path: Path, kind: Kind, embeddings: NDArray[np.float32], queries: NDArray[np.float32]
) -> None:
    records, known = records_of(embeddings), KnownEmbeddings(DIM)
    known.include([record.content_sha256 for record in records], embeddings)
    build = BuildSettings(hnsw_m=16, ef_construction=80)
    with IndexWriter(tmp_path) as writer:
        writer.publish(Draft("random", "f" * 16, DIM, kind, build, records[:2500]), known, base=None)
        writer.publish(Draft("random", "f" * 16, DIM, kind, build, records), known, writer.current())
    index = open_index(tmp_path, SETTINGS)
    for query, found in zip(queries, index.search(queries, 10), strict=True):
        assert_same(index, found, brute_force(embeddings, query, 10))


def test_the_embeddings_of_items_come_in_the_order_asked_for(
    index: VectorIndex, embeddings: NDArray[np.float32]
) -> None:
    asked = [7, 2999, 0, 7]
    found = index.embeddings_of([f"Artikel {number} – ü" for number in asked])
    np.testing.assert_array_equal(found, embeddings[asked])
    assert index.embeddings_of([]).shape == (0, DIM)


def test_items_that_are_not_there_are_named(index: VectorIndex) -> None:
    with pytest.raises(InvalidOption, match="no item 'Artikel x', 'y'"):
        index.embeddings_of(["Artikel x", "Artikel 7 – ü", "y"])
