"""What an encoded image claims to be, read before any decoder sees it: format, size, orientation.

Screening also hands on only what the pixels need. Comments, text, EXIF and extensions are where decoders spend
unbounded time and memory on hostile files (compressed text, millions of empty segments) and warn about harmless ones.
"""

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from lookalike.avif_header import coded_sizes
from lookalike.errors import CorruptImage, UnsupportedImage
from lookalike.tiff_header import reduce_tiff

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIC", "AVIF")

# Far above what cameras and editors write, far below what takes seconds to walk.
MAX_JPEG_SEGMENTS = 4_000
MAX_JPEG_SCANS = 100
MAX_PNG_CHUNKS = 20_000
MAX_GIF_BLOCKS = 100_000
MAX_RLE_BMP = 4_000_000  # pixels, and bytes: Pillow decodes run lengths in Python, byte by byte

_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_HEIF_SIZE = re.compile(rb"ispe\0\0\0\0(.{8})", re.DOTALL)
_HEIF_EXIF_ITEM = re.compile(rb"(infe[\x02\x03].{7,9})Exif", re.DOTALL)
_ORIENTATION_TAG = 0x0112


class Screened(NamedTuple):
    """An image that is ready for its reader; `size` is as stored, before rotation, `None` where only the reader knows.

    `orientation` is the EXIF value 1-8; 0 where only the reader can find it.
    """

    format: str
    data: bytes
    size: tuple[int, int] | None = None
    orientation: int = 0


def screen(data: bytes) -> Screened:
    """Recognise an image by its first bytes and read its header.

    Raises:
        UnsupportedImage: no image, or none in one of `FORMATS`.
        CorruptImage: the header is cut or contradicts itself.
    """
    image_format = _recognise(data)
    if image_format is None:
        raise UnsupportedImage("the bytes are not an image in a format that is read", allowed=FORMATS)
    try:
        return _SCREENS[image_format](data)
    except (struct.error, IndexError) as error:
        raise CorruptImage(f"the {image_format} image ends inside its header") from error


def exif_orientation(exif: bytes) -> int:
    """Return the orientation (1-8) in an EXIF block, 1 when it is missing or cannot be read."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == _ORIENTATION_TAG:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # an EXIF block that is cut does not make the picture unreadable
    return 1


def _recognise(data: bytes) -> str | None:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM"):
        return "BMP"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    return _recognise_brand(data) if data[4:8] == b"ftyp" else None


def _recognise_brand(data: bytes) -> str | None:
    end = min(int.from_bytes(data[:4], "big"), 1024)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS else None


def _screen_jpeg(data: bytes) -> Screened:
    view, kept = memoryview(data), [memoryview(b"\xff\xd8")]
    size, orientation, position = None, 1, 2
    for _ in range(MAX_JPEG_SEGMENTS):
        marker = _JPEG_MARKER.search(data, position)
        if marker is None or marker[0] == b"\xff\xd9":
            raise CorruptImage("the JPEG image ends before its pixels begin")
        start, code, position = marker.start(), data[marker.end() - 1], marker.end()
        if code == 0x01 or 0xD0 <= code <= 0xD8:
            continue
        if code == 0xDA:
            if size is None:
                raise CorruptImage("the JPEG image's pixels begin before its size is given")
            kept.append(view[start:])
            return Screened("JPEG", _bounded_scans(b"".join(kept)), size, orientation)
        position += struct.unpack_from(">H", data, position)[0]
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, start + 5)
            size = (width, height)
        if code == 0xE1 and data.startswith(b"Exif\0\0", start + 4):
            orientation = exif_orientation(data[start + 4 : position])
        if _jpeg_pixels_need(code, data, start):
            kept.append(view[start:position])
    raise CorruptImage(f"the JPEG image has more than {MAX_JPEG_SEGMENTS} segments before its pixels")


def _jpeg_pixels_need(code: int, data: bytes, start: int) -> bool:
    """Tell whether a segment is a table, a frame, JFIF, Adobe's colour transform or a part of an ICC profile."""
    if code == 0xE2:
        return data.startswith(b"ICC_PROFILE\0", start + 4)
    return code in (0xE0, 0xEE) or not (0xE0 <= code <= 0xEF or code == 0xFE)


def _bounded_scans(jpeg: bytes) -> bytes:
    # A progressive scan of 10 bytes costs a pass over all pixels: without a bound, a small file keeps a core for hours.
    if jpeg.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise CorruptImage(f"the JPEG image has more than {MAX_JPEG_SCANS} scans")
    return jpeg


def _screen_png(data: bytes) -> Screened:
    if data[12:16] != b"IHDR":
        raise CorruptImage("the PNG image does not begin with its header chunk")
    width, height, depth = struct.unpack_from(">IIB", data, 16)
    # Pillow compares a 16-bit transparent colour with 8-bit pixels; such an image is read as opaque.
    once = {b"IHDR", b"PLTE", b"iCCP"} | ({b"tRNS"} if depth <= 8 else set())
    view, position, orientation = memoryview(data), 8, 1
    kept = [view[:8]]
    for _ in range(MAX_PNG_CHUNKS):
        if position >= len(data):
            return Screened("PNG", b"".join(kept), (width, height), orientation)
        kind = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if kind in once or kind in (b"IDAT", b"IEND"):
            kept.append(view[position:end])
            once.discard(kind)  # each repeated profile would be inflated again
        elif kind == b"eXIf":
            orientation = exif_orientation(data[position + 8 : end - 4])
        position = len(data) if kind == b"IEND" else end
    raise CorruptImage(f"the PNG image has more than {MAX_PNG_CHUNKS} chunks")


def _screen_gif(data: bytes) -> Screened:
    screen_width, screen_height, flags = struct.unpack_from("<HHB", data, 6)
    palette_end = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    control, position = b"", palette_end
    for _ in range(MAX_GIF_BLOCKS):
        kind = data[position]
        if kind == 0x2C:
            left, top, width, height = struct.unpack_from("<HHHH", data, position + 1)
            size = (max(screen_width, left + width), max(screen_height, top + height))
            first = b"".join((memoryview(data)[:palette_end], control, memoryview(data)[position:]))
            return Screened("GIF", first, size, 1)
        if kind == 0x3B:
            break
        if kind == 0x21:
            start, position = position, _after_sub_blocks(data, position + 2)
            control = data[start:position] if data[start + 1] == 0xF9 else control
        else:
            position += 1  # stray bytes between blocks are passed over, as browsers do
    raise CorruptImage("the GIF image holds no picture")


def _after_sub_blocks(data: bytes, position: int) -> int:
    for _ in range(MAX_GIF_BLOCKS):
        if not data[position]:
            return position + 1
        position += 1 + data[position]
    raise CorruptImage(f"an extension of the GIF image has more than {MAX_GIF_BLOCKS} blocks")


def _screen_bmp(data: bytes) -> Screened:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return Screened("BMP", data, (width, height), 1)
    width, height, _, _, compression = struct.unpack_from("<iiHHI", data, 18)
    width, height = abs(width), abs(height)
    if compression in (1, 2) and max(len(data), width * height) > MAX_RLE_BMP:
        raise UnsupportedImage(
            f"a run-length coded BMP may have at most {MAX_RLE_BMP} bytes and pixels; send it uncompressed or as PNG",
            allowed=FORMATS,
        )
    return Screened("BMP", data, (width, height), 1)


def _screen_webp(data: bytes) -> Screened:
    if data[12:16] != b"VP8X":
        return Screened("WEBP", data)  # a plain frame is at most 16383x16383 px, and its reader allocates nothing yet
    width = 1 + int.from_bytes(data[24:27], "little")
    height = 1 + int.from_bytes(data[27:30], "little")
    return Screened("WEBP", data, (width, height))


def _screen_tiff(data: bytes) -> Screened:
    reduced, size, orientation = reduce_tiff(data)
    return Screened("TIFF", reduced, size, orientation)


def _screen_heif(image_format: str, data: bytes) -> Screened:
    # The largest picture inside counts: the main one is not smaller than its tiles, thumbnails and depth maps.
    sizes: list[tuple[int, int]] = [struct.unpack(">II", found) for found in _HEIF_SIZE.findall(data)]
    if image_format == "AVIF":
        sizes += coded_sizes(data)
    size = max(sizes, key=lambda wh: wh[0] * wh[1], default=None)
    # Rotation is a property of the picture here (`irot`, `imir`), which readers apply; EXIF repeats it, for no use.
    return Screened(image_format, _HEIF_EXIF_ITEM.sub(rb"\1exif", data), size)


_SCREENS: dict[str, Callable[[bytes], Screened]] = {
    "JPEG": _screen_jpeg,
    "PNG": _screen_png,
    "WEBP": _screen_webp,
    "GIF": _screen_gif,
    "BMP": _screen_bmp,
    "TIFF": _screen_tiff,
    "HEIC": lambda data: _screen_heif("HEIC", data),
    "AVIF": lambda data: _screen_heif("AVIF", data),
}
