"""A TIFF's first directory, checked and reduced to the tags that its pixels need (TIFF 6.0; BigTIFF)."""

import struct
from typing import NamedTuple

from PIL.TiffImagePlugin import COMPRESSION_INFO

from lookalike.errors import CorruptImage, UnsupportedImage

MAX_ENTRIES = 4096
MAX_SAMPLES_PER_PIXEL = 6
MAX_TILE_PIXELS = 1 << 24

_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_UNSIGNED = {1: "B", 3: "H", 4: "I", 16: "Q"}

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_ORIENTATION, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT = 274, 277, 322, 323
# compression, fill order, rows a strip, planar configuration, predictor and the rest of the layout have one value each
_ONE_VALUE = frozenset({256, 257, 259, 262, 266, 277, 278, 284, 292, 293, 317, 322, 323, 512, 513, 514, 515, 531})
# bits, offsets, byte counts, palette, extra samples, sample format, JPEG tables, YCbCr, reference levels, ICC profile
_MANY_VALUES = frozenset({258, 273, 279, 320, 324, 325, 338, 339, 347, 519, 520, 521, 529, 530, 532, 34675})


class _Layout(NamedTuple):
    """How this file's directories are written: byte order, and the widths of classic or BigTIFF."""

    order: str
    number: str
    entry: str
    offset: str

    def read(self, form: str, data: bytes, position: int) -> int:
        return int(struct.unpack_from(self.order + form, data, position)[0])


_CLASSIC = ("H", "HHI4s", "I")
_BIG = ("Q", "HHQ8s", "Q")


def reduce_tiff(data: bytes) -> tuple[bytes, tuple[int, int], int]:
    """Return the file with a first directory of only needed tags, its stored size (w, h) and its orientation (1-8).

    Tags in camera files are often malformed, and readers warn about each; none of those tags matters for pixels.

    Raises:
        CorruptImage: a needed tag is missing, contradictory, or points outside of the file.
        UnsupportedImage: a compression or a number of channels that is not read.
    """
    big = data[2:4] in (b"+\0", b"\0+")
    layout = _Layout("<" if data.startswith(b"II") else ">", *(_BIG if big else _CLASSIC))
    pointer = 8 if big else 4
    entries = _needed_entries(data, layout, layout.read(layout.offset, data, pointer))
    values = {tag: _first_value(data, layout, entry) for tag, entry in entries.items()}
    orientation = values.pop(_ORIENTATION, 1)
    entries.pop(_ORIENTATION, None)
    _check(values)
    padding = b"\0" * (len(data) % 2)
    start = struct.pack(layout.order + layout.offset, len(data) + len(padding))
    count = struct.pack(layout.order + layout.number, len(entries))
    end = struct.pack(layout.order + layout.offset, 0)
    head = data[:pointer] + start
    reduced = b"".join((head, memoryview(data)[len(head) :], padding, count, *entries.values(), end))
    return reduced, (values[_WIDTH], values[_HEIGHT]), orientation


def _needed_entries(data: bytes, layout: _Layout, position: int) -> dict[int, bytes]:
    count = layout.read(layout.number, data, position)
    if count > MAX_ENTRIES:
        raise CorruptImage(f"the TIFF image has {count} tags; at most {MAX_ENTRIES} are read")
    position += struct.calcsize(layout.order + layout.number)
    width = struct.calcsize(layout.order + layout.entry)
    entries: dict[int, bytes] = {}
    for start in range(position, position + count * width, width):
        tag, kind, values, field = struct.unpack_from(layout.order + layout.entry, data, start)
        if tag == _ORIENTATION and kind in _UNSIGNED and values == 1:
            entries[tag] = data[start : start + width]
        elif tag in _ONE_VALUE or tag in _MANY_VALUES:
            _check_entry(data, layout, (tag, kind, values, field))
            entries.setdefault(tag, data[start : start + width])
    return dict(sorted(entries.items()))


def _check_entry(data: bytes, layout: _Layout, entry: tuple[int, int, int, bytes]) -> None:
    tag, kind, values, field = entry
    if values == 0 or kind not in _VALUE_BYTES or (tag in _ONE_VALUE and (values != 1 or kind not in _UNSIGNED)):
        raise CorruptImage(f"tag {tag} of the TIFF image has {values} values of type {kind}")
    size = values * _VALUE_BYTES[kind]
    if size > len(field) and layout.read(layout.offset, field, 0) + size > len(data):
        raise CorruptImage(f"tag {tag} of the TIFF image points outside of the file")


def _first_value(data: bytes, layout: _Layout, entry: bytes) -> int:
    _, kind, values, field = struct.unpack(layout.order + layout.entry, entry)
    if kind not in _UNSIGNED:
        return 0
    if values * _VALUE_BYTES[kind] <= len(field):
        return layout.read(_UNSIGNED[kind], field, 0)
    return layout.read(_UNSIGNED[kind], data, layout.read(layout.offset, field, 0))


def _check(values: dict[int, int]) -> None:
    if not values.get(_WIDTH) or not values.get(_HEIGHT):
        raise CorruptImage("the TIFF image does not give its size")
    if values.get(_TILE_WIDTH, 1) * values.get(_TILE_HEIGHT, 1) > MAX_TILE_PIXELS:
        raise CorruptImage(f"the TIFF image's tiles have more than {MAX_TILE_PIXELS} pixels")
    if values.get(_SAMPLES, 1) > MAX_SAMPLES_PER_PIXEL:
        raise UnsupportedImage(f"a TIFF image may have at most {MAX_SAMPLES_PER_PIXEL} channels")
    if values.get(_COMPRESSION, 1) not in COMPRESSION_INFO:
        raise UnsupportedImage(f"TIFF compression {values[_COMPRESSION]} is not read")
    if values.get(_PHOTOMETRIC) == 0 and values.get(_BITS, 1) > 8:
        # Pillow would show such an image as its own negative.
        raise UnsupportedImage("a TIFF image with white as zero may have at most 8 bits a channel")
