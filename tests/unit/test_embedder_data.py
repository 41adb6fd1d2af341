"""Tests of what an embedder is trained on: lists with wrong lines, held-out classes, balanced batches, views."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.errors import SetupError

pytest.importorskip("torchvision", reason="training needs the extra lookalike[train]")

from tests.unit.embedder_samples import data_folder, retrieval_folder, small_config
from training.embedder.config import Views
from training.embedder.data import TrainingData
from training.embedder.pictures import (
    Picture,
    by_class,
    check_classes,
    held_out,
    open_picture,
    read_instances,
    read_retrieval,
)
from training.embedder.sampler import BatchSampler, share_of_rank
from training.embedder.views import ViewMaker


def pictures(classes: int, images: int, name: str = "cars") -> list[Picture]:
    return [Picture(Path(f"{c}_{i}.png"), name, str(c), f"list:{c}") for c in range(classes) for i in range(images)]


def test_a_missing_picture_is_named_with_file_and_line(tmp_path: Path) -> None:
    retrieval_folder(tmp_path)
    (tmp_path / "cars" / "1_0.png").unlink()
    with pytest.raises(SetupError, match=r"manifest\.csv:6: there is no .*1_0\.png"):
        read_retrieval(tmp_path, "cars")


def test_a_set_or_a_manifest_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"manifest\.csv"):
        read_retrieval(tmp_path, "cars")
    with pytest.raises(SetupError, match="boats") as caught:
        read_retrieval(retrieval_folder(tmp_path), "boats")
    assert caught.value.allowed == ["cars", "shop"]


def test_a_manifest_without_a_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("file,set,split\na.png,cars,train\n")
    with pytest.raises(SetupError, match=r"manifest\.csv:1: there is no column role, class_id"):
        read_retrieval(tmp_path, "cars")


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_unreadable_picture_stops_the_run_or_is_left_out(
    tmp_path: Path, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    data_folder(tmp_path)
    (tmp_path / "retrieval" / "cars" / "1_0.png").write_bytes(b"no image")
    config = small_config(bad_images=policy)
    if policy == "stop":
        with pytest.raises(SetupError, match=r"manifest\.csv:6: .*1_0\.png cannot be read"):
            TrainingData(config, tmp_path)
        return
    assert len(TrainingData(config, tmp_path).pictures["cars"]) == 23
    assert "manifest.csv:6" in caplog.text


def test_a_picture_that_is_cut_is_named_when_it_is_shown(tmp_path: Path) -> None:
    retrieval_folder(tmp_path)
    path = tmp_path / "cars" / "0_0.png"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(SetupError, match=r"manifest\.csv:2: .*0_0\.png cannot be read"):
        open_picture(read_retrieval(tmp_path, "cars")[0])


def test_a_class_of_one_picture_is_named() -> None:
    with pytest.raises(SetupError, match="list:7: class '7' has 1 pictures"):
        check_classes([*pictures(3, 2), Picture(Path("x.png"), "cars", "7", "list:7")], 2)


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="holds no pictures"):
        read_instances(tmp_path, "paintings")


def test_held_out_classes_are_whole_and_the_same_each_time() -> None:
    parts = held_out(pictures(8, 3), 0.25, seed=5)
    assert len(by_class(parts.validation)) == 2
    assert not set(by_class(parts.train)) & set(by_class(parts.validation))
    assert held_out(pictures(8, 3), 0.25, seed=5) == parts
    assert held_out(pictures(8, 3), 0.0, seed=5).validation == []


def test_classes_that_are_all_held_out_are_refused() -> None:
    with pytest.raises(SetupError, match="two must be left"):
        held_out(pictures(2, 3), 0.5, seed=5)


def test_batches_are_balanced_by_set_and_class_and_repeat_by_step() -> None:
    both = pictures(5, 4) + pictures(4, 1, "paintings")
    sampler = BatchSampler(both, {"cars": 3, "paintings": 2}, images=2, views={"cars": 4, "paintings": 4}, seed=1)
    batch = sampler.batch(7)
    assert len(batch) == sampler.batch_size == 10
    assert set(Counter((s.set_name, s.class_number) for s in batch).values()) == {2}
    assert all(both[s.position].set_name == s.set_name for s in batch)
    assert sampler.batch(7) == batch
    assert sampler.batch(8) != batch


def test_a_lone_picture_is_shown_in_two_views() -> None:
    sampler = BatchSampler(pictures(3, 1), {"cars": 2}, images=2, views={"cars": 4, "paintings": 4}, seed=1)
    for step in range(20):
        first, second, *_ = sampler.batch(step)
        assert first.position == second.position
        assert first.view != second.view


def test_each_class_shows_its_shop_picture() -> None:
    shop = [p._replace(role="iconic" if p.path.name.endswith("_0.png") else "query") for p in pictures(3, 9)]
    sampler = BatchSampler(shop, {"cars": 3}, images=2, views={"cars": 1}, seed=1)
    for step in range(20):
        roles = [shop[s.position].role for s in sampler.batch(step)]
        assert roles.count("iconic") == 3


def test_too_few_classes_and_uneven_shares_are_refused() -> None:
    with pytest.raises(SetupError, match="a batch takes 9 classes"):
        BatchSampler(pictures(3, 2), {"cars": 9}, images=2, views={"cars": 0}, seed=1)
    batch = BatchSampler(pictures(3, 2), {"cars": 3}, images=2, views={"cars": 0}, seed=1).batch(0)
    assert share_of_rank(batch, 0, 2) + share_of_rank(batch, 1, 2) == batch
    with pytest.raises(SetupError, match="4 processes"):
        share_of_rank(batch, 0, 4)


def test_a_view_is_named_by_its_number_and_a_cutout_gets_a_background(tmp_path: Path) -> None:
    cutout = np.zeros((40, 40, 4), np.uint8)
    cutout[10:30, 10:30] = (200, 20, 20, 255)
    (tmp_path / "backgrounds").mkdir()
    Image.fromarray(cutout).save(tmp_path / "cutout.png")
    Image.new("RGB", (40, 40), (20, 20, 200)).save(tmp_path / "backgrounds" / "blue.png")
    (picture,) = read_instances(tmp_path, "cutouts")
    backgrounds = read_instances(tmp_path / "backgrounds", "backgrounds")
    views = ViewMaker(Views(cached=0), small_config().preprocess, 1, frozenset({"cutouts"}), backgrounds)
    assert np.array_equal(views.view(picture, 3), views.view(picture, 3))
    assert not np.array_equal(views.view(picture, 3), views.view(picture, 4))
    assert views.plain(picture)[0, 0].tolist() == [255, 255, 255]
    blue = views.view(picture, 3).astype(int)
    assert (blue[..., 2] - blue[..., 0] > 60).mean() > 0.2
