"""What images look like to the embedder: near-duplicates, the map, the best of a dimension; and folders of images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.errors import InvalidOption, SetupError
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.labels.lists import images_to_label, read_names
from lookalike.review.folder_source import FolderSource
from lookalike.review.journal import Decision
from lookalike.review.looks import Looks
from tests.label_samples import ColourSession, colour_embedder

WEED = Decision(action="weed")


def colours() -> WholeImageEmbedder:
    return WholeImageEmbedder("colours", colour_embedder())


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three greens that are nearly the same, a red, a file that is no image, a blue."""
    tones = {"a": (20, 200, 20), "b": (22, 199, 21), "red": (220, 10, 10), "c": (21, 201, 22), "blue": (10, 10, 220)}
    for name, tone in tones.items():
        Image.new("RGB", (16, 12), tone).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    return [tmp_path / f"{name}.png" for name in ("a", "b", "red", "broken", "c", "blue")]


def test_near_duplicates_are_grouped_and_nothing_else_is(pictures: list[Path], tmp_path: Path) -> None:
    looks = Looks(pictures, colours, tmp_path / "cache")
    assert looks.near_duplicates(0.999) == [[0, 1, 4]]
    assert looks.near_duplicates(1e-6)[0] == [0, 1, 2, 4, 5]
    assert looks.done == len(pictures)


def test_a_chain_of_similar_images_is_one_group(tmp_path: Path) -> None:
    tones = [(255, 0, 0), (255, 60, 0), (255, 120, 0), (0, 0, 255)]
    paths = [tmp_path / f"{number}.png" for number in range(len(tones))]
    for path, tone in zip(paths, tones, strict=True):
        Image.new("RGB", (16, 12), tone).save(path)
    looks = Looks(paths, colours, tmp_path / "cache")
    units = [np.array(tone) / np.linalg.norm(tone) for tone in tones]
    reach = float(min(units[0] @ units[1], units[1] @ units[2])) - 1e-3
    assert units[0] @ units[2] < reach
    assert looks.near_duplicates(reach) == [[0, 1, 2]]


def test_a_dimension_has_its_best_images_first(pictures: list[Path], tmp_path: Path) -> None:
    looks = Looks(pictures, colours, tmp_path / "cache")
    assert looks.by_dimension(0)[0] == 2  # the red of the left half
    assert looks.by_dimension(2)[0] == 5
    with pytest.raises(InvalidOption, match="no dimension 6"):
        looks.by_dimension(6)


def test_the_map_has_each_readable_image_once_within_its_bounds(pictures: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    positions = Looks(pictures, colours, tmp_path / "cache").positions()
    assert [number for number, _, _ in positions] == [0, 1, 2, 4, 5]
    assert all(0 <= x <= 1 and 0 <= y <= 1 for _, x, y in positions)


def test_embeddings_are_kept_until_an_image_changes(pictures: list[Path], tmp_path: Path) -> None:
    session = ColourSession()

    def load() -> WholeImageEmbedder:
        return WholeImageEmbedder("colours", colour_embedder(session))

    first = Looks(pictures, load, tmp_path / "cache").near_duplicates(0.999)
    assert session.images == 5
    assert Looks(pictures, load, tmp_path / "cache").near_duplicates(0.999) == first
    assert session.images == 5
    Image.new("RGB", (16, 12), (230, 10, 10)).save(pictures[4])
    assert Looks(pictures, load, tmp_path / "cache").near_duplicates(0.999) == [[0, 1], [2, 4]]


def test_a_folder_without_a_readable_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(SetupError, match="none of the images can be read"):
        Looks([tmp_path / "broken.png"], colours, tmp_path / "cache").near_duplicates(0.9)


def test_a_folder_is_parted_into_lists_and_no_file_is_touched(pictures: list[Path], tmp_path: Path) -> None:
    source, weeded = FolderSource(tmp_path), {"b.png": WEED, "c.png": WEED}
    files = {path: path.read_bytes() for path in pictures}
    source.export(weeded, weeded.keys())
    lists = tmp_path / ".review"
    assert [name for _, name in read_names(lists / "weeded")] == ["b.png", "c.png"]
    kept = images_to_label(lists / "kept", tmp_path)
    assert [image.name for image in kept] == ["a.png", "blue.png", "broken.png", "red.png"]
    assert {path: path.read_bytes() for path in pictures} == files
    assert source.export(weeded, weeded.keys()) == []
