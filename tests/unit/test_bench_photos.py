"""The photos that load tests send: composed to size and format, read from any folder, cut as a two-trip client cuts."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.photo_mix import Cuttings, PhotoKind, encode_photo
from benchmarks.photos import CROP_EDGE_PX, SMALL_EDGE_PX, load_photos
from lookalike.config import ImageLimits
from lookalike.errors import SetupError
from lookalike.golden.draw import draw_golden_image
from lookalike.images import decode_image
from lookalike.scene import compose_scene


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return compose_scene(draw_golden_image().convert("RGBA").resize((400, 300)), None, 3)[0]


def kind(**options: object) -> PhotoKind:
    return PhotoKind.model_validate({"name": "any", "format": "JPEG", "megapixels": 0.5, "weight": 1, **options})


@pytest.mark.parametrize(
    ("options", "kilobytes"),
    [
        ({"kilobytes": 80}, 80),
        ({"format": "WEBP", "kilobytes": 60}, 60),
        ({"megapixels": 3, "kilobytes": 900}, 900),
        ({"format": "PNG"}, None),
        ({"format": "HEIC", "quality": 60}, None),
        ({"sideways": True}, None),
    ],
)
def test_a_photo_has_the_pixels_the_format_and_about_the_bytes_that_were_asked_for(
    scene: Image.Image, options: dict[str, object], kilobytes: int | None
) -> None:
    wanted = kind(**options)
    data = encode_photo(scene, wanted)
    decoded = decode_image(data, ImageLimits())
    assert decoded.info.format == wanted.format
    assert decoded.info.width * decoded.info.height == pytest.approx(wanted.megapixels * 1e6, rel=0.01)
    assert decoded.info.width > decoded.info.height  # upright, also where it was stored sideways
    likeness = np.asarray(decoded.pixels.resize((40, 30)), float) - np.asarray(scene.resize((40, 30)), float)
    assert np.abs(likeness).mean() < 3
    if kilobytes is not None:
        assert 0.75 * kilobytes <= len(data) / 1000 <= kilobytes


def test_a_photo_that_lies_sideways_says_so(scene: Image.Image) -> None:
    with Image.open(io.BytesIO(encode_photo(scene, kind(sideways=True)))) as stored:
        assert stored.height > stored.width
        assert stored.getexif()[0x0112] == 6


def test_kinds_of_the_mix_have_their_weight_and_other_photos_a_name_by_size(tmp_path: Path, scene: Image.Image) -> None:
    scene.save(tmp_path / "page-jpeg-0.jpg")
    scene.save(tmp_path / "holiday.png")
    (tmp_path / "notes.txt").write_text("no photo")
    other, page = load_photos(tmp_path)
    assert (page.kind, page.weight, page.content_type) == ("page-jpeg", 30, "image/jpeg")
    assert (other.kind, other.weight, other.content_type) == ("PNG 1 MP", 1, "image/png")


def test_a_crop_is_cut_from_the_original_at_the_box_of_the_small_copy(tmp_path: Path) -> None:
    original = Image.new("RGB", (2560, 1280), "white")
    original.paste("red", (800, 400, 1200, 800))
    original.save(tmp_path / "square.png")
    (photo,) = load_photos(tmp_path)
    small = decode_image(photo.small, ImageLimits())
    assert max(small.pixels.size) == SMALL_EDGE_PX
    crop = decode_image(photo.crop((200.0, 100.0, 300.0, 200.0)), ImageLimits()).pixels
    assert crop.size == (400, 400)
    assert np.asarray(crop)[5:-5, 5:-5].mean(axis=(0, 1)) == pytest.approx([254, 0, 0], abs=3)
    assert photo.crop((200.0, 100.0, 300.0, 200.0)) is photo.crop((200.0, 100.0, 300.0, 200.0))
    whole = decode_image(photo.crop(None), ImageLimits()).pixels
    assert whole.size == (CROP_EDGE_PX, CROP_EDGE_PX // 2)


def test_a_folder_without_photos_and_a_damaged_photo_are_named(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="is not a folder"):
        load_photos(tmp_path / "none")
    with pytest.raises(SetupError, match="holds no photos"):
        load_photos(tmp_path)
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    with pytest.raises(SetupError, match=r"cut\.jpg: "):
        load_photos(tmp_path)


def test_without_cut_outs_and_stamps_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path))
    monkeypatch.setattr("benchmarks.photo_mix.STAMPS", tmp_path)
    with pytest.raises(SetupError, match="no photos") as caught:
        Cuttings.find()
    assert "--photos" in str(caught.value.allowed)


def test_stamps_stand_in_for_the_projects_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOOKALIKE_DATA", str(tmp_path / "none"))
    monkeypatch.setattr("benchmarks.photo_mix.STAMPS", tmp_path)
    draw_golden_image().convert("RGBA").save(tmp_path / "stamp.png")
    cuttings = Cuttings.find()
    assert "stamps" in cuttings.said
    assert cuttings.scene(1).size == (1152, 864)
