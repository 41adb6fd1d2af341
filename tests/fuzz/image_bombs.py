"""Small files that would take much memory or time if they were believed; each names what becomes of it."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from PIL import Image

from tests.unit.image_samples import SAMPLES, encode, picture, png, tiff
from tests.unit.test_avif_header import sequence_header

TOO_LARGE, CORRUPT, DECODED = "image_too_large", "corrupt_image", "decoded"
EDGE = 9000  # 81 MP, where 60 are allowed


class Bomb(NamedTuple):
    """A file, and what `decode_image` makes of it."""

    data: bytes
    outcome: str


@cache
def large(mode: str) -> Image.Image:
    return Image.new(mode, (EDGE, EDGE))


def _png_header(width: int, height: int) -> tuple[str, bytes]:
    return "IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def _png_with(*chunks: tuple[str, bytes]) -> bytes:
    plain = SAMPLES["PNG"]().data
    return plain[:33] + png(*chunks)[8:] + plain[33:]


@cache
def _packed(mega: int) -> bytes:
    return zlib.compress(bytes(mega * 1_000_000), 9)


def _many_frames(image_format: str, **options: object) -> bytes:
    frames = [Image.new("RGB", (600, 600), (i % 256, 0, 0)) for i in range(60)]
    return encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)


def _resized_heif(image_format: str, edge: int, **options: object) -> bytes:
    """Return a large picture whose boxes say 64x64."""
    data = encode(Image.new("RGB", (edge, edge)), image_format, **options)
    size = data.index(b"ispe") + 8
    return data[:size] + struct.pack(">II", 64, 64) + data[size + 8 :]


def _avif_of_absurd_size() -> bytes:
    plain = SAMPLES["AVIF"]().data
    start = plain.index(b"\x12\0\x0a") + 2
    size = 2 + plain[start + 1]
    return plain[:start] + sequence_header(65_536, 65_536).ljust(size, b"\0") + plain[start + size :]


def _shrunk_tiff(compression: str) -> bytes:
    """Return an 81 MP picture whose tags say 64x64: its strips hold more than they may."""
    buffer = io.BytesIO()
    large("L").save(buffer, "TIFF", compression=compression)
    data = bytearray(buffer.getvalue())
    start = int.from_bytes(data[4:8], "little")
    for entry in range(start + 2, start + 2 + 12 * int.from_bytes(data[start : start + 2], "little"), 12):
        if int.from_bytes(data[entry : entry + 2], "little") in (256, 257):
            data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, 64)
    return bytes(data)


def _progressive_jpeg() -> bytes:
    data = encode(picture(), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 5000 + data[-2:]


BOMBS: dict[str, Callable[[], Bomb]] = {
    "PNG of 81 MP": lambda: Bomb(encode(large("L"), "PNG"), TOO_LARGE),
    "PNG of 2^62 pixels": lambda: Bomb(
        png(_png_header(2**31 - 1, 2**31 - 1), ("IDAT", b"x"), ("IEND", b"")), TOO_LARGE
    ),
    "PNG 4x4 whose data inflate to 100 MB": lambda: Bomb(
        png(_png_header(4, 4), ("IDAT", _packed(100)), ("IEND", b"")), DECODED
    ),
    "PNG with a second, giant header": lambda: Bomb(_png_with(_png_header(50_000, 50_000)), DECODED),
    "PNG whose profile inflates to 100 MB": lambda: Bomb(_png_with(("iCCP", b"k\0\0" + _packed(100))), CORRUPT),
    "PNG whose texts inflate to 10 GB": lambda: Bomb(_png_with(*[("zTXt", b"k\0\0" + _packed(100))] * 100), DECODED),
    "PNG of 100,000 chunks": lambda: Bomb(_png_with(*[("tEXt", b"a")] * 100_000), CORRUPT),
    "PNG of 60 frames": lambda: Bomb(_many_frames("PNG"), DECODED),
    "GIF of 81 MP": lambda: Bomb(encode(large("L"), "GIF"), TOO_LARGE),
    "GIF with a giant canvas": lambda: Bomb(_gif_canvas(65_535), TOO_LARGE),
    "GIF with a frame far larger than its canvas": lambda: Bomb(_gif_in_a_small_canvas(), TOO_LARGE),
    "GIF of 60 frames": lambda: Bomb(_many_frames("GIF"), DECODED),
    "JPEG of 81 MP": lambda: Bomb(encode(large("L"), "JPEG"), TOO_LARGE),
    "JPEG of 65,500x65,500": lambda: Bomb(_jpeg_of(65_500), TOO_LARGE),
    "JPEG of 5,000 scans": lambda: Bomb(_progressive_jpeg(), CORRUPT),
    "JPEG of two sizes": lambda: Bomb(_jpeg_of_two_sizes(), CORRUPT),
    "WebP of 81 MP, lossless": lambda: Bomb(
        encode(large("RGB"), "WEBP", lossless=True, method=0, quality=0), TOO_LARGE
    ),
    "WebP with a giant canvas": lambda: Bomb(_webp_canvas(), TOO_LARGE),
    "WebP of 60 frames": lambda: Bomb(_many_frames("WEBP", lossless=True, method=0, quality=0), DECODED),
    "TIFF of 81 MP": lambda: Bomb(encode(large("L"), "TIFF", compression="tiff_lzw"), TOO_LARGE),
    "TIFF of 2^64 pixels": lambda: Bomb(tiff(b"", {"width": 2**32 - 1, "height": 2**32 - 1}), TOO_LARGE),
    "TIFF with giant tiles": lambda: Bomb(tiff(b"x", {"tile_width": 65_535, "tile_height": 65_535}), CORRUPT),
    "TIFF whose strips inflate far beyond its size": lambda: Bomb(_shrunk_tiff("tiff_adobe_deflate"), DECODED),
    "HEIC of 4 MP that says 64x64": lambda: Bomb(_resized_heif("HEIF", 2000), CORRUPT),
    "AVIF of 81 MP that says 64x64": lambda: Bomb(_resized_heif("AVIF", EDGE, speed=10), TOO_LARGE),
    "AVIF of 65,536x65,536 that says 96x64": lambda: Bomb(_avif_of_absurd_size(), TOO_LARGE),
    "BMP of 81 MP": lambda: Bomb(_bmp(EDGE, 0), TOO_LARGE),
    "BMP of run lengths": lambda: Bomb(_bmp(7000, 1), "unsupported_image"),
}


def _gif_canvas(edge: int) -> bytes:
    plain = SAMPLES["GIF"]().data
    return plain[:6] + struct.pack("<HH", edge, edge) + plain[10:]


def _gif_in_a_small_canvas() -> bytes:
    data = encode(large("L"), "GIF")
    return data[:6] + struct.pack("<HH", 10, 10) + data[10:]


def _jpeg_of(edge: int) -> bytes:
    data, at = _jpeg_frame()
    return data[: at + 5] + struct.pack(">HH", edge, edge) + data[at + 9 :]


def _jpeg_of_two_sizes() -> bytes:
    data, at = _jpeg_frame()
    frame = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
    giant = frame[:5] + struct.pack(">HH", 60_000, 60_000) + frame[9:]
    return data[:at] + giant + data[at:]


def _jpeg_frame() -> tuple[bytes, int]:
    data = SAMPLES["JPEG"]().data
    return data, data.index(b"\xff\xc0")


def _webp_canvas() -> bytes:
    plain = SAMPLES["WEBP animated"]().data
    return plain[:24] + b"\xff" * 6 + plain[30:]


def _bmp(edge: int, compression: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, edge, edge, 1, 8, compression, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + header + bytes(1024)
