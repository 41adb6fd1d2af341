"""Every format, mode and orientation decodes to the picture that it holds; crops follow their boxes."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.config import ImageLimits
from lookalike.errors import CorruptImage, ImageTooLarge, InvalidOption, UnsupportedImage
from lookalike.image_headers import FORMATS
from lookalike.images import crop_box, decode_image
from lookalike.schemas import Box
from tests.unit.image_samples import (
    HEIGHT,
    SAMPLES,
    WIDTH,
    Sample,
    encode,
    picture,
    pixels_of,
    profile_with_red_and_green_swapped,
    tiff,
)

LIMITS = ImageLimits()
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
JPEG_VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "4:2:0": ("RGB", {"subsampling": "4:2:0"}),
    "4:4:4": ("RGB", {"subsampling": "4:4:4"}),
    "progressive": ("RGB", {"progressive": True}),
    "grey": ("L", {}),
    "CMYK": ("CMYK", {}),
}


def error_of(pixels: Image.Image, expected: np.ndarray) -> float:
    assert pixels.mode == "RGB"
    found = np.asarray(pixels)
    assert found.shape == expected.shape
    return float(np.abs(found.astype(int) - expected).mean())


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_decodes_to_its_picture(name: str) -> None:
    sample = SAMPLES[name]()
    decoded = decode_image(sample.data, LIMITS)
    assert error_of(decoded.pixels, sample.expected) <= sample.tolerance
    assert decoded.info.format == name.split()[0]
    assert (decoded.info.width, decoded.info.height) == decoded.pixels.size


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_an_orientation_is_undone(image_format: str, orientation: int) -> None:
    method = STORED[orientation]
    stored = picture() if method is None else picture().transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encode(stored, image_format, exif=exif.tobytes()), LIMITS)
    assert error_of(decoded.pixels, pixels_of(picture())) <= 4
    assert (decoded.info.width, decoded.info.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12"]
)
def test_damaged_exif_does_not_cost_the_picture(exif: bytes) -> None:
    decoded = decode_image(encode(picture(), "JPEG", exif=exif), LIMITS)
    assert error_of(decoded.pixels, pixels_of(picture())) <= 4


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF"])
def test_a_colour_profile_is_applied(image_format: str) -> None:
    data = encode(picture(), image_format, icc_profile=profile_with_red_and_green_swapped())
    decoded = decode_image(data, LIMITS)
    assert error_of(decoded.pixels, pixels_of(picture())[..., [1, 0, 2]]) <= 5
    assert "icc_profile" not in decoded.pixels.info


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_profile_that_is_damaged_or_for_another_mode_is_passed_over(mode: str) -> None:
    profile = profile_with_red_and_green_swapped()
    image = picture().convert(mode)
    for unfit in (b"", b"\0" * 500, profile[:200], *([] if mode == "RGB" else [profile])):
        decoded = decode_image(encode(image, "TIFF", icc_profile=unfit), LIMITS)
        assert error_of(decoded.pixels, pixels_of(image)) <= 1


def test_floats_that_are_no_numbers_count_as_zero() -> None:
    values = np.asarray(picture().convert("L")).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    decoded = np.asarray(decode_image(encode(Image.fromarray(values), "TIFF"), LIMITS).pixels)
    assert decoded[0, :3].max() == 0
    assert error_of(Image.fromarray(decoded[1:]), pixels_of(picture().convert("L"))[1:]) == 0


def test_a_deep_range_is_stretched() -> None:
    values = np.linspace(-3e9, 5e9, WIDTH, dtype=np.float32)[None, :]
    decoded = np.asarray(decode_image(encode(Image.fromarray(values), "TIFF"), LIMITS).pixels)
    assert (decoded[0, 0, 0], decoded[0, -1, 0]) == (0, 255)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF"])
def test_limits_are_checked_on_every_format(image_format: str) -> None:
    data = encode(picture(), image_format)
    exact = ImageLimits(max_bytes=len(data), max_pixels=WIDTH * HEIGHT, max_edge_px=WIDTH)
    assert decode_image(data, exact).pixels.size == (WIDTH, HEIGHT)
    for low in ({"max_bytes": len(data) - 1}, {"max_pixels": WIDTH * HEIGHT - 1}, {"max_edge_px": WIDTH - 1}):
        with pytest.raises(ImageTooLarge, match=r"image (has|is) \d+") as caught:
            decode_image(data, exact.model_copy(update=low))
        assert str(next(iter(low.values()))) in str(caught.value.allowed)


def test_limits_come_before_decoding() -> None:
    # The pixels are missing: whoever decoded first would find the image truncated.
    with pytest.raises(ImageTooLarge, match="50000x50000"):
        decode_image(tiff(b"", {"width": 50_000, "height": 50_000}), LIMITS)


@pytest.mark.parametrize("image_format", ["EPS", "ICO", "PPM", "TGA", "PDF", "JPEG2000", "PCX", "DDS", "SGI"])
def test_other_formats_are_refused_by_naming_the_right_ones(image_format: str) -> None:
    with pytest.raises(UnsupportedImage) as caught:
        decode_image(encode(picture(), image_format), LIMITS)
    assert tuple(caught.value.allowed or ()) == FORMATS


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"<html></html>", b"%PDF-1.7", b"\0" * 64, b"\0\0\0\x18ftypisom" * 9]
)
def test_bytes_that_are_no_image_are_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedImage):
        decode_image(data, LIMITS)


@pytest.mark.parametrize(
    "variant",
    [{"samples": 7}, {"compression": 34712}, {"bits": 16, "photometric": 0, "samples": 1}, {"photometric": 9}],
)
def test_a_tiff_variant_that_is_not_read_is_unsupported_rather_than_corrupt(variant: dict[str, int]) -> None:
    with pytest.raises(UnsupportedImage):
        decode_image(tiff(picture().tobytes(), variant), LIMITS)


def test_a_jpeg_of_12_bits_is_unsupported_rather_than_corrupt() -> None:
    data = encode(picture(), "JPEG")
    precision = data.index(b"\xff\xc0") + 4
    with pytest.raises(UnsupportedImage, match="12-bit"):
        decode_image(data[:precision] + b"\x0c" + data[precision + 1 :], LIMITS)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIC", "AVIF"])
def test_a_truncated_image_is_corrupt(name: str) -> None:
    data = SAMPLES[name]().data
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(CorruptImage, match=name):
            decode_image(data[: int(len(data) * share)], LIMITS)


def test_threads_decode_what_one_thread_decodes() -> None:
    samples = [make() for make in SAMPLES.values()]

    def is_right(sample: Sample) -> bool:
        return error_of(decode_image(sample.data, LIMITS).pixels, sample.expected) <= sample.tolerance

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_right, samples * 4))


def test_decoded_pixels_do_not_need_the_file() -> None:
    decoded = decode_image(encode(picture(), "JPEG"), LIMITS)
    decoded.pixels.resize((8, 8)).save(io.BytesIO(), "PNG")


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, WIDTH, HEIGHT), (0, 0, WIDTH, HEIGHT)),
        ((10.2, 5.9, 20.1, 7.0), (10, 5, 21, 7)),
        ((-30, -1.5, 4.5, 9999), (0, 0, 5, HEIGHT)),
        ((WIDTH - 0.5, HEIGHT - 0.5, 1e300, 1e300), (WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT)),
        ((3.2, 3.2, 3.4, 3.4), (3, 3, 4, 4)),
    ],
)
def test_a_crop_is_rounded_outward_and_clipped(box: Box, expected: tuple[int, int, int, int]) -> None:
    crop = crop_box(picture(), box)
    assert np.array_equal(np.asarray(crop), np.asarray(picture().crop(expected)))


@pytest.mark.parametrize(
    "box",
    [
        (WIDTH, 0, WIDTH + 5, 5),
        (-9, 0, 0, 5),
        (0, HEIGHT + 1, 5, HEIGHT + 9),
        (5, 5, 5, 9),
        (9, 5, 5, 9),
        (0, 0, float("nan"), 5),
        (0, 0, float("inf"), 5),
    ],
)
def test_a_box_without_a_pixel_is_refused_with_the_images_size(box: Box) -> None:
    with pytest.raises(InvalidOption, match=f"{WIDTH}x{HEIGHT} px"):
        crop_box(picture(), box)


def test_real_photos_decode_as_pillow_decodes_them() -> None:
    folder = Path(os.environ.get("LOOKALIKE_DATA", "../shared/data"))
    photos = sorted(folder.glob("retrieval/*/*/*.jpg"))
    if not photos:
        pytest.skip(f"no photos under {folder / 'retrieval'}: set LOOKALIKE_DATA to the folder of the evaluation data")
    for path in photos[:: max(1, len(photos) // 40)]:
        with Image.open(path) as bare:
            expected = pixels_of(bare)
        assert error_of(decode_image(path.read_bytes(), LIMITS).pixels, expected) <= 1, path


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("variant", ["4:2:0", "4:4:4", "progressive", "grey", "CMYK"])
def test_a_large_jpeg_may_come_smaller_and_its_boxes_still_count_all_pixels(variant: str, orientation: int) -> None:
    method = STORED[orientation]
    whole = picture().resize((WIDTH * 9 + 5, HEIGHT * 9 + 3))  # neither is a multiple of the decoder's blocks
    stored = whole if method is None else whole.transpose(method)
    exif = Image.Exif()
    exif[0x0112] = orientation
    mode, options = JPEG_VARIANTS[variant]
    decoded = decode_image(encode(stored.convert(mode), "JPEG", exif=exif.tobytes(), **options), LIMITS, least_px=144)
    assert decoded.size == whole.size
    assert decoded.pixels.size == (-(-whole.width // 4), -(-whole.height // 4))  # an eighth would have 72 px
    box = (300.0, 100.0, 700.0, 400.0)
    crop, expected = decoded.crop(box).resize((40, 30)), whole.convert(mode).crop((300, 100, 700, 400)).resize((40, 30))
    assert error_of(crop, pixels_of(expected)) <= 4
    assert decoded.box_from_pixels((0, 0, *decoded.pixels.size)) == (0, 0, *whole.size)


@pytest.mark.parametrize(
    ("least_px", "box", "scale"),
    [
        (641, None, 1),
        (640, None, 2),
        (321, None, 2),
        (160, None, 8),
        (1, None, 8),
        (100, (0, 0, 800, 200), 2),
        (100, (0, 0, 199, 800), 1),
        (100, (0, 0, 1e9, 1e9), 8),
    ],
)
def test_a_jpeg_keeps_the_pixels_that_are_needed(least_px: int, box: Box | None, scale: int) -> None:
    data = encode(Image.new("RGB", (2000, 1280)), "JPEG")
    decoded = decode_image(data, LIMITS, least_px, box)
    assert decoded.pixels.size == (2000 // scale, 1280 // scale)
    assert decoded.size == (2000, 1280)
    assert decoded.shows(box or (0, 0, 2000, 1280), least_px)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (7, 9), (8, 8), (15, 16), (17, 33)])
def test_the_smallest_jpegs_come_at_any_scale(size: tuple[int, int]) -> None:
    decoded = decode_image(encode(Image.new("RGB", size, "red"), "JPEG"), LIMITS, least_px=1)
    assert decoded.size == size
    assert decoded.crop((0, 0, *size)).size == decoded.pixels.size


def test_other_formats_come_whole() -> None:
    for image_format in ("PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF"):
        assert decode_image(encode(picture(), image_format), LIMITS, least_px=1).pixels.size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_is_cut_is_refused_at_every_scale(progressive: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "JPEG", progressive=progressive)
    for least_px in (512, 256, 128, 64):
        for share in (0.1, 0.5, 0.9, 0.99):
            with pytest.raises(CorruptImage, match="JPEG"):
                decode_image(data[: int(len(data) * share)], LIMITS, least_px)


def test_a_box_outside_of_a_smaller_decoded_image_is_refused_with_the_images_own_size() -> None:
    decoded = decode_image(encode(Image.new("RGB", (800, 640)), "JPEG"), LIMITS, least_px=80)
    with pytest.raises(InvalidOption, match="800x640 px"):
        decoded.crop((800, 0, 900, 100))
