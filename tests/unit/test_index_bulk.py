"""Exact search of many queries at once, against a full sort."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.index import bulk
from lookalike.index.bulk import best_columns, bulk_search
from lookalike.index.exact import exact_search


@settings(deadline=None, max_examples=60)
@given(columns=st.integers(1, 700), k=st.integers(1, 40), seed=st.integers(0, 2**16), ties=st.booleans())
def test_the_best_columns_are_those_of_a_full_sort(columns: int, k: int, seed: int, ties: bool) -> None:
    k = min(k, columns)
    values = np.random.default_rng(seed).standard_normal((3, columns), dtype=np.float32)
    values = values.round(0) if ties else values
    best, found = best_columns(values, k)
    np.testing.assert_array_equal(best, -np.sort(-values, axis=1)[:, :k])
    np.testing.assert_array_equal(np.take_along_axis(values, found, 1), best)
    assert all(len(set(row)) == k for row in found.tolist())


@pytest.mark.parametrize("threads", [1, 3, 40])
def test_blocks_of_queries_and_rows_give_what_one_product_gives(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(bulk, "_QUERIES_AT_ONCE", 30)
    monkeypatch.setattr(bulk, "_ROWS_AT_ONCE", 170)
    random = np.random.default_rng(1)
    vectors, queries = (random.standard_normal((n, 24), dtype=np.float32) for n in (1000, 91))
    similarities, rows = bulk_search(vectors, queries, 200, threads)
    product = queries @ vectors.T
    np.testing.assert_allclose(similarities, -np.sort(-product, axis=1)[:, :200], atol=1e-4)
    np.testing.assert_array_equal(rows, np.argsort(-product, axis=1)[:, :200])


def test_many_queries_find_what_one_finds() -> None:
    random = np.random.default_rng(2)
    vectors, queries = (random.standard_normal((n, 24), dtype=np.float32) for n in (500, 70))
    together = exact_search(vectors, queries, 10, None)[1]
    one_by_one = np.concatenate([exact_search(vectors, query[None], 10, None)[1] for query in queries])
    np.testing.assert_array_equal(together, one_by_one)
