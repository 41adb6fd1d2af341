"""What a similarity is called: first hits among all sets, thresholds from a logistic curve, the shares they reach."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from lookalike.errors import SetupError
from lookalike.schemas import Likeness
from training.embedder.likeness import Pairs, first_hits, format_shares, thresholds
from training.evaluate_embedder import RetrievalImage


def image(set_name: str, class_id: str, role: str = "any") -> RetrievalImage:
    return RetrievalImage(Path(f"{set_name}-{class_id}.jpg"), set_name, role, class_id, "")


def pairs_by(curve_slope: float, curve_offset: float, count: int = 20_000) -> Pairs:
    """Return hits whose chance to be right is a known logistic function of the similarity."""
    random = np.random.default_rng(3)
    similarity = random.uniform(0, 1, count).astype(np.float32)
    chance = 1 / (1 + np.exp(-(curve_slope * similarity + curve_offset)))
    return Pairs(similarity, random.uniform(size=count) < chance, np.full(count, "one"), np.full(count, 1 / count))


def test_a_picture_is_no_hit_of_its_own_and_a_class_is_of_its_set() -> None:
    images = [image("a", "1"), image("a", "1"), image("b", "1"), image("b", "1", "query")]
    embeddings = np.array([[1, 0], [0.8, 0.6], [0.98, 0.199], [0.98, 0.199]], dtype=np.float32)
    pairs = first_hits(images, embeddings, top=2)
    assert pairs.set_name.tolist() == ["a", "a", "a", "a", "b", "b", "b", "b"]
    # The first finds b's picture (wrong), then its twin; b's query finds b's item, which no query's copy is.
    assert pairs.right.tolist() == [False, True, False, True, False, False, True, False]
    assert pairs.weight.sum() == pytest.approx(2)  # every set counts 1


def test_thresholds_are_where_the_curve_reaches_its_chances() -> None:
    chosen = thresholds(pairs_by(20, -12))
    for word, chance in (("same", 0.95), ("very_similar", 0.75), ("similar", 0.4)):
        assert getattr(chosen, word) == pytest.approx((np.log(chance / (1 - chance)) + 12) / 20, abs=0.02)


def test_similarities_that_tell_nothing_are_refused() -> None:
    with pytest.raises(SetupError, match="less often right"):
        thresholds(pairs_by(-20, 8))
    alike = pairs_by(20, -12)._replace(right=np.ones(20_000, dtype=bool))
    with pytest.raises(SetupError, match="all right or all wrong"):
        thresholds(alike)


def test_the_table_says_how_often_each_word_is_right() -> None:
    pairs = Pairs(
        np.array([0.9, 0.9, 0.7, 0.1], dtype=np.float32),
        np.array([True, False, True, False]),
        np.array(["a", "a", "b", "b"]),
        np.array([0.5, 0.5, 0.5, 0.5]),
    )
    lines = format_shares(pairs, Likeness(same=0.8, very_similar=0.6, similar=0.5)).splitlines()
    assert lines[2] == "| same | 0.8 | 0.500 | 0.500 | 0.500 |  |"
    assert lines[3] == "| very similar | 0.6 | 0.250 | 1.000 |  | 1.000 |"
    assert lines[5] == "| (none) |  | 0.250 | 0.000 |  | 0.000 |"


def test_words_out_of_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="in order"):
        Likeness(same=0.5, very_similar=0.6, similar=0.4)
