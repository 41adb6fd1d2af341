"""Tests of the metadata heads' data: manifests with wrong lines, labels, and features that are computed once."""

from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from lookalike.errors import SetupError
from tests.metadata_samples import COLOURS, MeanColours, jpeg

pytest.importorskip("tqdm", reason="training needs the extra lookalike[train]")

from training.metadata.data import (
    IGNORED,
    FolderImages,
    Row,
    ZipImages,
    class_numbers,
    label_lists,
    majority_mapping,
    read_rows,
)
from training.metadata.features import CHUNK, ImageSet, extract


def manifest(folder: Path, *lines: str, header: str = "id,split,gender") -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def rows(*labels: str) -> list[Row]:
    return [Row(i + 2, str(i), "train", {"gender": label}) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1,train,Men", "2,train"], "line 3: another number of cells"),
        (["1,train,Men,x"], "line 2: another number of cells"),
        ([",train,Men"], "line 2: column 'id' is empty"),
        (["1,train,Men", "2,val,Men", "1,train,Men"], "line 4: image '1' is already on line 2"),
        (["1,train,Men", "2,dev,Men"], "line 3: unknown split 'dev'"),
    ],
)
def test_a_wrong_line_of_the_manifest_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        read_rows(manifest(tmp_path, *lines), "id", ["gender"], splits=("train", "val"))


def test_an_unknown_column_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="line 1: no column 'colour'") as caught:
        read_rows(manifest(tmp_path, "1,train,Men"), "id", ["colour"])
    assert caught.value.allowed == ["id", "split", "gender"]


def test_missing_values_are_masked_and_rare_labels_folded(tmp_path: Path) -> None:
    given = read_rows(
        manifest(tmp_path, "1,train,Men", "2,train,NA", "3,train,", "4,train,Men", "5,train,Girls"), "id", ["gender"]
    )
    labels = label_lists(given, ["gender"], min_count=2)
    assert labels == {"gender": ["Men"]}
    assert class_numbers(given, labels)["gender"].tolist() == [0, IGNORED, IGNORED, 0, IGNORED]


def test_labels_are_listed_by_frequency_then_by_name() -> None:
    assert label_lists(rows("b", "a", "c", "c"), ["gender"], 1) == {"gender": ["c", "a", "b"]}


def test_the_mapping_follows_the_majority() -> None:
    pairs = [("Ties", "Ties"), ("Ties", "Gifts"), ("Ties", "Ties"), ("Caps", "Headwear"), ("Caps", "")]
    given = [Row(i, str(i), "train", {"articleType": a, "subCategory": s}) for i, (a, s) in enumerate(pairs)]
    mapping = majority_mapping(given, "articleType", "subCategory", ["Ties", "Caps"])
    assert mapping == {"Ties": "Ties", "Caps": "Headwear"}


def test_features_are_computed_once_and_resumed(tmp_path: Path) -> None:
    count = CHUNK + 5
    for i in range(count):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(COLOURS["Red"], 0))
    names = [f"{i}.jpg" for i in range(count)]
    source, images = MeanColours(), FolderImages(tmp_path)
    extract(ImageSet("all", images, names[:CHUNK]), source, tmp_path / "cache")
    whole = extract(ImageSet("all", images, names), source, tmp_path / "cache")
    assert source.seen == count
    assert whole.matrix.shape == (count, 6)


def test_a_missing_and_a_broken_image_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("1.jpg", jpeg(COLOURS["Red"], 0))
        archive.writestr("2.jpg", b"no image")
    images = ImageSet("all", ZipImages(tmp_path / "images.zip"), ["1", "2", "3"])
    for _ in ("computed", "from the cache"):
        features = extract(images, MeanColours(), tmp_path / "cache")
        assert set(features.bad) == {"2", "3"}
        assert np.isfinite(features.matrix).all(axis=1).tolist() == [True, False, False]


def test_a_mirrored_view_is_another_view_and_a_jittered_one_is_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg(COLOURS["Red"], 0, spread=90))
    views = [
        extract(ImageSet("one", FolderImages(tmp_path), ["1.jpg"], view), MeanColours(), tmp_path / cache).matrix
        for view, cache in (("plain", "a"), ("jitter", "a"), ("jitter", "b"))
    ]
    assert not np.allclose(views[0], views[1], atol=1e-3)
    assert np.array_equal(views[1], views[2])


def test_an_archive_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"no zip")
    with pytest.raises(SetupError, match=r"images\.zip"):
        ZipImages(tmp_path / "images.zip")
