"""The sizes that AV1 streams give, whatever the boxes around them say."""

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.avif_header import coded_sizes, stream_sizes
from lookalike.config import ImageLimits
from lookalike.errors import CorruptImage, ImageTooLarge
from lookalike.images import decode_image
from tests.unit.image_samples import HEIGHT, SAMPLES, WIDTH

STILL, ANIMATED = (SAMPLES[name]().data for name in ("AVIF", "AVIF animated"))


def sequence_header(width: int, height: int) -> bytes:
    """Return the shortest one there is: a still picture with 16 bits for each edge."""
    bits = f"{0:03b}{1:b}{1:b}{0:05b}{15:04b}{15:04b}{width - 1:016b}{height - 1:016b}"
    payload = int(bits.ljust(56, "0"), 2).to_bytes(7, "big")
    return bytes([0x0A, len(payload)]) + payload


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind + content


def avif(kind: bytes, payload: bytes, in_idat: bool = False) -> bytes:
    """Return a file of one item, whose payload lies in `mdat`, or in the box `idat`."""
    ftyp = box(b"ftyp", b"avif\0\0\0\0mif1")
    entry = box(b"infe", b"\2\0\0\0" + struct.pack(">HH", 1, 0) + kind + b"\0")
    item_list = box(b"iinf", bytes(4) + struct.pack(">H", 1) + entry)
    inside = box(b"idat", payload) if in_idat else b""

    def places(at: int) -> bytes:
        fields = struct.pack(">HHHHII", 1, int(in_idat), 0, 1, at, len(payload))
        return box(b"iloc", b"\1\0\0\0\x44\0" + struct.pack(">H", 1) + fields)

    def meta(at: int) -> bytes:
        return box(b"meta", bytes(4) + item_list + places(at) + inside)

    start = 0 if in_idat else len(ftyp) + len(meta(0)) + 8
    return ftyp + meta(start) + (b"" if in_idat else box(b"mdat", payload))


@pytest.mark.parametrize("name", [name for name in SAMPLES if name.startswith("AVIF") and "1x1" not in name])
def test_what_an_encoder_wrote_is_found(name):
    assert set(coded_sizes(SAMPLES[name]().data)) == {(WIDTH, HEIGHT)}


@pytest.mark.parametrize("in_idat", [False, True])
def test_the_stream_counts_and_not_the_boxes(in_idat):
    assert coded_sizes(avif(b"av01", sequence_header(40_000, 30_000), in_idat)) == [(40_000, 30_000)]


def test_a_second_header_behind_a_small_one_is_found():
    assert stream_sizes(b"\x12\0" + sequence_header(64, 64) + sequence_header(9_000, 9_000))[1] == (9_000, 9_000)


@pytest.mark.parametrize(("flags", "form"), [(0, ">HH"), (1, ">II")])
def test_a_grid_counts_with_the_size_that_it_is_put_together_to(flags, form):
    payload = bytes([0, flags, 0, 0]) + struct.pack(form, 50_000, 40_000)
    assert coded_sizes(avif(b"grid", payload)) == [(50_000, 40_000)]


def test_of_a_track_the_first_frame_counts():
    without_items = ANIMATED.replace(b"iloc", b"free")
    assert coded_sizes(without_items) == [(WIDTH, HEIGHT)]


def test_a_picture_that_is_larger_than_its_boxes_say_is_refused_before_it_is_decoded():
    start = STILL.index(b"\x12\0\x0a")  # where its stream begins
    size = 1 + STILL[start + 3]
    lying = STILL[: start + 2] + sequence_header(9_000, 9_000).ljust(size + 1, b"\0") + STILL[start + 3 + size :]
    with pytest.raises(ImageTooLarge, match="9000x9000"):
        decode_image(lying, ImageLimits())


def test_bytes_that_are_named_again_and_again_are_refused():
    many = 3000
    extents = struct.pack(">II", 0, 0) * many
    content = b"\0\0\0\0\x44\0" + struct.pack(">HHHH", 1, 1, 0, many) + extents
    with pytest.raises(CorruptImage, match="again and again"):
        coded_sizes(box(b"meta", bytes(4) + box(b"iloc", content)))


@pytest.mark.parametrize("damaged", [box(b"meta", b"") * 20_001, b"\0\0\0\1mdat" + bytes(8), b"\x80" * 9])
def test_boxes_beyond_reason_end_soon(damaged):
    with contextlib.suppress(CorruptImage, IndexError):
        assert coded_sizes(damaged) == []


@given(flips=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6), animated=st.booleans())
@settings(max_examples=300, deadline=None)
def test_damage_gives_sizes_or_one_of_two_errors(flips, animated):
    data = bytearray(ANIMATED if animated else STILL)
    for position, value in flips:
        data[position % len(data)] = value
    with contextlib.suppress(CorruptImage, IndexError):
        coded_sizes(bytes(data))
