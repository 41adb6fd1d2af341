"""The metrics against tables worked out by hand, and against exhaustive search."""

import numpy as np
import pytest

from lookalike.boxes import box_iou
from lookalike.evaluation import (
    ann_recall_at_k,
    mean_average_precision_at_r,
    ranked_relevance,
    recall_at_k,
    share_of_misses,
)


def relevance(*rows: str) -> np.ndarray:
    return np.array([[mark == "+" for mark in row] for row in rows])


@pytest.mark.parametrize(("k", "expected"), [(1, 1 / 3), (2, 2 / 3), (3, 2 / 3), (4, 1.0)])
def test_recall_counts_queries_with_a_relevant_item_among_the_first_k(k: int, expected: float) -> None:
    assert recall_at_k(relevance("+---", "-+--", "---+"), k) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("++--", 1.0),  # R = 2: (1/1 + 2/2) / 2
        ("+-+-", 1 / 2),  # R = 2: rank 3 lies beyond R, so 1/1 alone, over 2
        ("-+-+", 1 / 4),  # R = 2: 1/2 at rank 2, over 2
        ("+-++", (1 + 2 / 3) / 3),  # R = 3: 1/1 and 2/3; rank 4 lies beyond R
        ("--++", 0.0),  # R = 2: nothing within R
        ("-+--", 0.0),  # R = 1: only the first rank counts
    ],
)
def test_map_at_r_agrees_with_the_formula_worked_out_by_hand(row: str, expected: float) -> None:
    assert mean_average_precision_at_r(relevance(row)) == pytest.approx(expected)


def test_map_at_r_leaves_out_queries_that_nothing_answers() -> None:
    assert mean_average_precision_at_r(relevance("+--", "---")) == 1.0
    assert mean_average_precision_at_r(relevance("---")) == 0.0


def test_ranking_orders_items_by_similarity() -> None:
    items = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
    queries = np.array([[0, 1]], np.float32)
    relevant = ranked_relevance(queries, np.array(["b"]), items, np.array(["a", "b", "b"]))
    assert relevant.tolist() == [[True, True, False]]


def test_leave_one_out_never_finds_the_query_itself() -> None:
    items = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    relevant = ranked_relevance(items, np.array([1, 2, 1]), items, np.array([1, 2, 1]), leave_one_out=True)
    assert relevant.tolist() == [[False, True], [False, False], [True, False]]


def test_ranking_in_blocks_agrees_with_exhaustive_search() -> None:
    rng = np.random.default_rng(3)
    items = rng.normal(size=(1500, 8)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    classes = rng.integers(0, 20, 1500)
    relevant = ranked_relevance(items, classes, items, classes, leave_one_out=True)
    for query in (0, 1023, 1024, 1499):
        others = np.delete(np.arange(1500), query)
        nearest = others[np.argsort(-(items[others] @ items[query]), kind="stable")]
        np.testing.assert_array_equal(relevant[query, :50], classes[nearest[:50]] == classes[query])


@pytest.mark.parametrize(
    ("box", "other", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),
        ((0, 0, 10, 10), (2, 2, 4, 4), 4 / 100),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),  # they touch: x2 is exclusive
        ((0, 0, 10, 10), (20, 20, 30, 30), 0.0),
        ((5, 5, 5, 5), (5, 5, 5, 5), 0.0),  # empty boxes share nothing
    ],
)
def test_iou_agrees_with_areas_counted_by_hand(box: tuple, other: tuple, expected: float) -> None:
    found = box_iou(np.array([box], np.float64), np.array([other], np.float64))
    assert found == pytest.approx(np.array([[expected]]))


def test_iou_compares_every_box_with_every_other() -> None:
    boxes, others = np.zeros((3, 4)), np.zeros((2, 4))
    assert box_iou(boxes, others).shape == (3, 2)


def test_a_miss_is_an_iou_below_a_tenth() -> None:
    assert share_of_misses(np.array([0.0, 0.0999, 0.1, 0.9])) == 0.5


@pytest.mark.parametrize(
    ("found", "exact", "expected"),
    [
        ([[1, 2, 3]], [[3, 2, 1]], 1.0),  # order does not matter
        ([[1, 2, 9]], [[1, 2, 3]], 2 / 3),
        ([[1, -1, -1]], [[1, 2, 3]], 1 / 3),  # padding finds nothing
        ([[1, -1, -1]], [[1, -1, -1]], 1.0),  # and nothing is expected of it
        ([[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [7, 8, 9]], 0.5),
    ],
)
def test_ann_recall_is_the_overlap_with_exact_search(found: list, exact: list, expected: float) -> None:
    assert ann_recall_at_k(np.array(found), np.array(exact), 3) == pytest.approx(expected)
