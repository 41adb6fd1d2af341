"""Damaged and hostile images end in a typed error, soon, and without a warning."""

import logging
import struct
import time
import warnings
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lookalike.config import ImageLimits
from lookalike.errors import CorruptImage, ImageTooLarge, LookalikeError, UnsupportedImage
from lookalike.images import decode_image
from tests.unit.image_samples import SAMPLES, encode, picture, png, profile_with_red_and_green_swapped, tiff

LIMITS = ImageLimits()
ENCODED = {name: make().data for name, make in SAMPLES.items()}
ENCODED["JPEG with EXIF and profile"] = encode(
    picture(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0", icc_profile=b"\0" * 200
)
ENCODED["HEIC with profile"] = encode(picture(), "HEIF", icc_profile=profile_with_red_and_green_swapped())
PATIENCE_S = 5.0  # each case takes some ms here; the bound is for a machine that is busy


def outcome_of(data: bytes) -> str:
    """Decode `data`; return the error's code or "decoded"; fail on a warning, a log record or another exception."""
    start_s = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            decode_image(data, LIMITS)
            outcome = "decoded"
        except LookalikeError as error:
            outcome = error.code
    assert not caught, [str(warning.message) for warning in caught]
    assert time.perf_counter() - start_s < PATIENCE_S
    return outcome


@given(name=st.sampled_from(sorted(ENCODED)), share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=300, deadline=None)
def test_a_truncation_gives_a_picture_or_a_typed_error(name: str, share: float) -> None:
    data = ENCODED[name]
    assert outcome_of(data[: int(len(data) * share)]) in {
        "decoded",
        "corrupt_image",
        "unsupported_image",
        "image_too_large",
    }


@given(
    name=st.sampled_from(sorted(ENCODED)),
    # Headers are where the traps are: half of the flips fall into the first 400 bytes.
    flips=st.lists(
        st.tuples(st.one_of(st.integers(0, 400), st.integers(0, 20_000)), st.integers(0, 255)), min_size=1, max_size=12
    ),
)
@settings(max_examples=1500, deadline=None)
def test_flipped_bytes_give_a_picture_or_a_typed_error(name: str, flips: list[tuple[int, int]]) -> None:
    data = bytearray(ENCODED[name])
    for position, value in flips:
        data[position % len(data)] = value
    assert outcome_of(bytes(data)) in {"decoded", "corrupt_image", "unsupported_image", "image_too_large"}


@given(start=st.sampled_from([data[:12] for data in ENCODED.values()]), rest=st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_noise_behind_a_signature_gives_a_typed_error(start: bytes, rest: bytes) -> None:
    assert outcome_of(start + rest) in {"decoded", "corrupt_image", "unsupported_image", "image_too_large"}


def jpeg_with(segments: bytes) -> bytes:
    plain = ENCODED["JPEG"]
    return plain[:2] + segments + plain[2:]


def png_with(*chunks: tuple[str, bytes]) -> bytes:
    header, body = ENCODED["PNG"][:33], ENCODED["PNG"][33:]
    return header + png(*chunks)[8:] + body


def gif_with(blocks: bytes) -> bytes:
    plain = ENCODED["GIF"]
    palette_end = 13 + (3 << ((plain[10] & 7) + 1))
    return plain[:palette_end] + blocks + plain[palette_end:]


def test_a_flood_of_jpeg_segments_is_refused() -> None:
    with pytest.raises(CorruptImage, match="segments"):
        decode_image(jpeg_with(b"\xff\xfe\x00\x02" * 1_000_000), LIMITS)


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    data = encode(picture(), "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(CorruptImage, match="scans"):
        decode_image(data[:-2] + last_scan * 1000 + data[-2:], LIMITS)


def test_compressed_text_in_a_png_is_never_inflated() -> None:
    bomb = b"k\0\0" + zlib.compress(bytes(50_000_000), 9)
    start_s = time.process_time()
    assert outcome_of(png_with(*[("zTXt", bomb)] * 100)) == "decoded"
    assert time.process_time() - start_s < 1


def test_a_colour_profile_that_inflates_without_end_is_refused() -> None:
    bomb = b"k\0\0" + zlib.compress(bytes(50_000_000), 9)
    assert outcome_of(png_with(("iCCP", bomb))) == "corrupt_image"


def test_a_png_whose_animation_header_is_wrong_is_a_picture() -> None:
    assert outcome_of(png_with(("acTL", bytes(8)), ("acTL", bytes(8)))) == "decoded"


def test_png_pixels_beyond_the_last_row_are_not_inflated() -> None:
    header = struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    data = png(("IHDR", header), ("IDAT", zlib.compress(bytes(200_000_000), 9)), ("IEND", b""))
    start_s = time.process_time()
    assert outcome_of(data) == "decoded"
    assert time.process_time() - start_s < 0.5


def test_a_long_comment_in_a_gif_is_passed_over() -> None:
    assert outcome_of(gif_with(b"!\xfe" + (b"\xff" + b"a" * 255) * 60_000 + b"\0")) == "decoded"
    assert outcome_of(gif_with(b"!\xfe" + b"\x01a" * 1_000_000 + b"\0")) == "corrupt_image"


def test_a_gif_frame_outside_of_its_canvas_counts_for_the_limits() -> None:
    far = ENCODED["GIF"].replace(b",\0\0\0\0", b",\xff\xff\xff\xff", 1)
    with pytest.raises(ImageTooLarge):
        decode_image(far, LIMITS)


@pytest.mark.parametrize("size", [(2**32 - 1, 2**32 - 1), (2**31, 1), (1, 20_000), (9_000, 9_000)])
def test_a_tiff_of_absurd_size_is_too_large(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge):
        decode_image(tiff(b"", {"width": size[0], "height": size[1]}), LIMITS)


@pytest.mark.parametrize("absurd", [{"tile_width": 65535, "tile_height": 65535}, {"width": 0}, {"offset": 2**32 - 1}])
def test_a_tiff_with_an_absurd_layout_is_corrupt(absurd: dict[str, int]) -> None:
    assert outcome_of(tiff(picture().tobytes(), absurd)) == "corrupt_image"


def test_a_webp_canvas_of_absurd_size_is_too_large() -> None:
    data = ENCODED["WEBP animated"]
    with pytest.raises(ImageTooLarge, match="16777216x16777216"):
        decode_image(data[:24] + b"\xff" * 6 + data[30:], LIMITS)


@pytest.mark.parametrize("name", ["HEIC", "AVIF"])
def test_a_heif_picture_of_absurd_size_is_too_large(name: str) -> None:
    data = ENCODED[name]
    size = data.index(b"ispe") + 8
    with pytest.raises(ImageTooLarge, match="60000x60000"):
        decode_image(data[:size] + struct.pack(">II", 60_000, 60_000) + data[size + 8 :], LIMITS)


def test_a_large_run_length_coded_bmp_is_refused() -> None:
    palette = bytes(4 * 256)
    header = struct.pack("<IiiHHIIiiII", 40, 7000, 7000, 1, 8, 1, 0, 0, 0, 256, 0)
    with pytest.raises(UnsupportedImage, match="run-length"):
        decode_image(b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + len(palette)) + header + palette, LIMITS)


def test_damaged_images_leave_nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for data in ENCODED.values():
            outcome_of(data[: len(data) // 2])
    assert not caplog.records


def test_decoding_changes_nothing_global() -> None:
    before = (Image.MAX_IMAGE_PIXELS, dict(Image.OPEN), list(Image.ID), list(warnings.filters))
    for data in ENCODED.values():
        decode_image(data, LIMITS)
    assert (Image.MAX_IMAGE_PIXELS, dict(Image.OPEN), list(Image.ID), list(warnings.filters)) == before
