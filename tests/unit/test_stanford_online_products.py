"""Tests of the Stanford Online Products loader and protocol on a tiny tree of the same shape."""

from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import SetupError

pytest.importorskip("torch", reason="training needs the extra lookalike[train]")

from tests.unit.embedder_samples import colour_of, small_config, write_picture
from training.embedder.data import TrainingData
from training.embedder.stanford_online_products import format_scores, protocol_scores, read_products


def tiny_tree(folder: Path) -> Path:
    """Write six classes of three pictures, half of them for the test, as Stanford Online Products comes."""
    for split, first in (("train", 0), ("test", 3)):
        lines = ["image_id class_id super_class_id path"]
        for number in range(first, first + 3):
            for image in range(3):
                path = f"bicycle_final/{number}_{image}.JPG"
                write_picture(folder / path, colour_of(number), 10 * number + image)
                lines.append(f"{len(lines)} {number + 1} 1 {path}")
        (folder / f"Ebay_{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_lists_are_read_and_their_classes_never_overlap(tmp_path: Path) -> None:
    tiny_tree(tmp_path)
    train, test = read_products(tmp_path, "train"), read_products(tmp_path, "test")
    assert len(train) == len(test) == 9
    assert not {p.class_id for p in train} & {p.class_id for p in test}
    assert test[0].origin.endswith("Ebay_test.txt:2")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 1 bicycle_final/0_0.JPG", "3 fields"),
        ("1 one 1 bicycle_final/0_0.JPG", "whole numbers"),
        ("1 1 1 bicycle_final/gone.JPG", "there is no"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tiny_tree(tmp_path) / "Ebay_train.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(SetupError, match=rf"Ebay_train\.txt:11: .*{message}"):
        read_products(tmp_path, "train")


def test_a_missing_list_or_header_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"Ebay_test\.txt"):
        read_products(tmp_path, "test")
    (tmp_path / "Ebay_test.txt").write_text("1 1 1 a.JPG\n")
    with pytest.raises(SetupError, match=r"Ebay_test\.txt:1: the header"):
        read_products(tmp_path, "test")


def test_products_can_be_trained_on(tmp_path: Path) -> None:
    tiny_tree(tmp_path)
    source = {"name": "sop", "kind": "stanford-online-products", "folder": ".", "classes_in_batch": 2}
    data = TrainingData(small_config(data=[source], validation={"share": 0.3}), tmp_path)
    assert len(data.train) == 6
    assert len(data.validation) == 3
    assert data.sampler.batch_size == 4


def test_the_protocol_matches_a_table_made_by_hand() -> None:
    # On a line: each picture's neighbours are the nearest in angle.
    angles = np.deg2rad([0, 10, 25, 45, 46.0])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    scores = protocol_scores(embeddings, np.array(["a", "b", "a", "b", "c"]))
    # Queries of a and b have one other picture: ranks 2 (0 -> 10, 25), 3 (10 -> 0, 25, 45), 2 (25 -> 10, 0? no: 45).
    ranks = {0: 2, 1: 3, 2: 4, 3: 3}
    assert scores.queries == 4
    assert scores.recall_at == {1: 0.0, 10: 1.0, 100: 1.0, 1000: 1.0}
    assert scores.mean_average_precision == pytest.approx(np.mean([1 / rank for rank in ranks.values()]))
    assert scores.mean_average_precision_at_r == 0.0


def test_perfect_embeddings_score_one_and_are_shown_in_percent() -> None:
    embeddings = np.repeat(np.eye(3, dtype=np.float32), 3, axis=0)
    scores = protocol_scores(embeddings, np.repeat(np.arange(3), 3))
    assert scores.mean_average_precision == scores.mean_average_precision_at_r == scores.recall_at[1] == 1.0
    assert format_scores(scores).splitlines()[-1].startswith("| 9 | 100.00 | 100.00 |")


def test_pictures_that_are_alone_in_their_class_cannot_be_scored() -> None:
    with pytest.raises(SetupError, match="nothing to be found"):
        protocol_scores(np.eye(3, dtype=np.float32), np.arange(3))
