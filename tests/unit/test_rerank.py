"""Tests of re-ranking: expansion by hand, images that never expand by themselves, distractors that only harm."""

from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import SetupError

pytest.importorskip("tqdm", reason="training needs the extra lookalike[train]")

from training.embedder.rerank import expanded, format_rows, rerank_rows
from training.evaluate_embedder import RetrievalImage, score_sets, with_distractors


def on_circle(degrees: list[float]) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_a_query_moves_to_its_neighbours_by_their_similarity() -> None:
    (moved,) = expanded(on_circle([0]), on_circle([60, 170]), neighbours=2, power=1.0, itself=False)
    # cos 60 = 0.5 weighs the first; the second is opposite and weighs nothing.
    expected = np.array([1, 0]) + 0.5 * on_circle([60])[0]
    assert np.allclose(moved, expected / np.linalg.norm(expected), atol=1e-6)


def test_an_image_is_not_its_own_neighbour() -> None:
    images = on_circle([0, 30])
    moved = expanded(images, images, neighbours=5, power=0.0, itself=True)
    assert np.allclose(moved, on_circle([15, 15]), atol=1e-6)
    assert np.array_equal(expanded(images[:1], images[:1], 3, 1.0, True), images[:1])


def images_of(classes: str, set_name: str = "one", role: str = "any") -> list[RetrievalImage]:
    return [RetrievalImage(Path("x.png"), set_name, role, name, "") for name in classes]


def test_expanded_queries_find_what_a_chain_of_neighbours_leads_to() -> None:
    images = [*images_of("a", role="query"), *images_of("aab", role="gallery")]
    rows = rerank_rows(images, on_circle([0, 10, 28, -20]), neighbours=1, power=1.0)["one"]
    assert rows["plain"].mean_average_precision_at_r == 0.5
    assert rows["query expansion"].mean_average_precision_at_r == 1.0
    assert rows["both"].queries == 1
    assert format_rows({"one": rows}).count("|---") == 5


def test_plain_rows_are_those_of_the_evaluation() -> None:
    images, embeddings = images_of("aabb"), on_circle([0, 20, 30, 90])
    assert rerank_rows(images, embeddings)["one"]["plain"] == score_sets(images, embeddings)["one"]


def test_distractors_lie_among_the_items_and_are_never_right() -> None:
    images = [*images_of("a", role="query"), *images_of("a", role="gallery"), *images_of("zz", "other")]
    far, near = on_circle([0, 10, 90, 95]), on_circle([0, 10, 5, 95])
    assert with_distractors(images, far, "one", 2).recall_at_1 == 1.0
    assert with_distractors(images, near, "one", 2).recall_at_1 == 0.0
    assert with_distractors(images, near, "one", 2).items == 3
    with pytest.raises(SetupError, match="3 distractors"):
        with_distractors(images, near, "one", 3)
