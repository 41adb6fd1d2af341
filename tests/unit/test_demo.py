"""The demo photographs an item of any format, as a person sees it, and says what it cannot read."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike import demo
from lookalike.errors import SetupError
from lookalike.index.items import ItemRecord
from tests.unit.image_samples import Pixels, encode, half_transparent, picture


def photograph(path: Path, data: bytes) -> Pixels:
    path.write_bytes(data)
    query = demo.compose_query(ItemRecord("the-item", b"", str(path)), seed=3)
    return np.asarray(Image.open(io.BytesIO(query)), dtype=np.float32)


def test_a_heic_item_is_photographed(tmp_path: Path) -> None:
    as_heic = photograph(tmp_path / "item", encode(picture(), "HEIF", quality=95))
    assert np.abs(as_heic - photograph(tmp_path / "item", encode(picture(), "PNG"))).mean() < 2


@pytest.mark.parametrize("picture_mode", ["RGB", "RGBA"])
def test_an_item_is_photographed_upright(tmp_path: Path, picture_mode: str) -> None:
    upright, exif = picture().convert(picture_mode), Image.Exif()
    exif[0x0112] = 6  # stored turned left, shown turned right
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    turned = photograph(tmp_path / "item", encode(stored, "PNG", exif=exif))
    assert np.array_equal(turned, photograph(tmp_path / "item", encode(upright, "PNG")))


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_the_transparent_part_of_an_item_is_not_photographed(tmp_path: Path, image_format: str) -> None:
    cut_out, on_white = half_transparent()
    photo = photograph(tmp_path / "item", encode(cut_out, image_format, lossless=True))
    flat = photograph(tmp_path / "item", encode(Image.fromarray(on_white), "PNG"))
    assert np.abs(photo - flat).mean() > 5


def test_an_item_that_is_too_large_or_no_image_is_refused_by_its_id(tmp_path: Path) -> None:
    for data in (encode(Image.new("1", (20_000, 20_000)), "PNG"), b"no image"):
        with pytest.raises(SetupError, match="item the-item: "):
            photograph(tmp_path / "item", data)


@pytest.mark.parametrize("screen", [{"DISPLAY": ":0"}, {"WAYLAND_DISPLAY": "wayland-0"}, {}])
def test_the_page_is_opened_where_there_is_a_screen(tmp_path: Path, screen: dict[str, str]) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
    browser.chmod(0o700)
    code = "from lookalike.demo import open_in_browser; open_in_browser('http://127.0.0.1:8090')"
    environment = {"PATH": os.environ["PATH"], "BROWSER": str(browser), **screen}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    assert (opened.read_text() if opened.exists() else None) == ("http://127.0.0.1:8090" if screen else None)
