"""How large the pictures inside an AVIF file really are: its boxes say one thing, and the AV1 stream may do another.

A decoder follows the stream. Boxes: ISO/IEC 14496-12 and 23008-12; stream: AV1 specification, 5.3 and 5.5.
"""

from collections.abc import Iterator

from lookalike.errors import CorruptImage

_MAX_BOXES, _MAX_ITEMS, _MAX_EXTENTS, _MAX_OBUS = 20_000, 4_000, 4_000, 20_000
_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_SEQUENCE_HEADER = 1

Size = tuple[int, int]


def coded_sizes(data: bytes) -> list[Size]:
    """Return the width and height that each AV1 sequence header and each grid of the file gives.

    Raises:
        CorruptImage: more boxes, items or parts than any picture has.
        IndexError: the file ends inside of what it describes.
    """
    sizes: list[Size] = []
    boxes = list(_boxes(data))
    idat = next((start for kind, start, _ in boxes if kind == b"idat"), 0)
    kinds = {item: kind for box, start, end in boxes if box == b"iinf" for item, kind in _item_kinds(data, start, end)}
    for kind, start, end in boxes:
        if kind == b"iloc":
            for item, parts in _item_parts(data, start, idat):
                sizes += _sizes_of(kinds.get(item, b""), b"".join(data[at : at + size] for at, size in parts))
        elif kind == b"stbl":
            sizes += stream_sizes(_first_sample(data, boxes, start, end))
    return sizes


def _sizes_of(kind: bytes, payload: bytes) -> list[Size]:
    if kind == b"grid":
        return [_grid_size(payload)]
    return stream_sizes(payload) if kind == b"av01" else []


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of every box that matters, and where its content starts and ends."""
    waiting, seen = [(0, len(data))], 0
    while waiting:
        position, end = waiting.pop()
        while position + 8 <= end:
            seen += 1
            if seen > _MAX_BOXES:
                raise CorruptImage(f"the AVIF image has more than {_MAX_BOXES} boxes")
            size, kind, start = _number(data, position, 4), data[position + 4 : position + 8], position + 8
            if size == 1:
                size, start = _number(data, start, 8), start + 8
            stop = end if size == 0 else min(end, position + size)
            if stop < start:
                raise CorruptImage("a box of the AVIF image is smaller than its head")
            if kind == b"meta":
                waiting.append((start + 4, stop))
            elif kind in _CONTAINERS:
                waiting.append((start, stop))
            yield kind, start, stop
            position = stop


def _item_kinds(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield each item of an `iinf` box with its kind."""
    position = start + (6 if data[start] == 0 else 8)
    for _ in range(_MAX_ITEMS):
        if position + 12 > end:
            return
        size, wide = _number(data, position, 4), 4 if data[position + 8] == 3 else 2
        at = position + 12
        yield _number(data, at, wide), data[at + wide + 2 : at + wide + 6]
        position += max(size, 8)
    raise CorruptImage(f"the AVIF image has more than {_MAX_ITEMS} items")


def _item_parts(data: bytes, start: int, idat: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Yield each item of an `iloc` box with the places and sizes of its parts."""
    version = data[start]
    offset_bytes, length_bytes = data[start + 4] >> 4, data[start + 4] & 15
    base_bytes, index_bytes = data[start + 5] >> 4, data[start + 5] & 15 if version else 0
    wide = 4 if version == 2 else 2
    count, position = _number(data, start + 6, wide), start + 6 + wide
    extents, taken = 0, 0
    if count > _MAX_ITEMS:
        raise CorruptImage(f"the AVIF image has {count} items; at most {_MAX_ITEMS} are read")
    for _ in range(count):
        item, position = _number(data, position, wide), position + wide
        inside = bool(version) and data[position + 1] & 15 == 1  # its places count from the box `idat`
        position += 4 if version else 2
        base = _number(data, position, base_bytes) + (idat if inside else 0)
        position += base_bytes
        parts: list[tuple[int, int]] = []
        for _ in range(_number(data, position, 2)):
            position += index_bytes
            at = base + _number(data, position + 2, offset_bytes)
            size = _number(data, position + 2 + offset_bytes, length_bytes) or len(data)
            parts.append((at, size))
            position += offset_bytes + length_bytes
            extents, taken = extents + 1, taken + min(size, max(0, len(data) - at))
            if extents > _MAX_EXTENTS or taken > 2 * len(data):
                raise CorruptImage("the AVIF image names the same bytes again and again")
        position += 2
        yield item, parts


def _first_sample(data: bytes, boxes: list[tuple[bytes, int, int]], start: int, end: int) -> bytes:
    """Return the first coded frame of a track, whose table of samples is the box from `start` to `end`."""
    inside = {kind: at for kind, at, _ in boxes if start <= at < end}
    chunk, sizes = inside.get(b"stco", inside.get(b"co64")), inside.get(b"stsz")
    if chunk is None or sizes is None:
        return b""
    at = _number(data, chunk + 8, 4 if b"stco" in inside else 8)
    return data[at : at + (_number(data, sizes + 4, 4) or _number(data, sizes + 12, 4))]


def _grid_size(payload: bytes) -> Size:
    wide = 4 if payload[1] & 1 else 2
    return _number(payload, 4, wide), _number(payload, 4 + wide, wide)


def stream_sizes(payload: bytes) -> list[Size]:
    """Return the largest width and height that each sequence header of an AV1 stream allows its frames."""
    sizes: list[Size] = []
    position = 0
    for _ in range(_MAX_OBUS):
        if position >= len(payload):
            return sizes
        head = payload[position]
        position += 2 if head & 4 else 1
        size, position = _leb128(payload, position) if head & 2 else (len(payload) - position, position)
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            sizes.append(_sequence_size(payload[position : position + size]))
        position += size
    raise CorruptImage(f"the AVIF image has more than {_MAX_OBUS} parts")


def _sequence_size(header: bytes) -> Size:
    bits = _Bits(header)
    bits.take(4)  # profile, still picture
    if bits.take(1):
        bits.take(5)
    else:
        _pass_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width_bits) + 1, bits.take(height_bits) + 1


def _pass_operating_points(bits: "_Bits") -> None:
    delay_bits = 0
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):
            bits.pass_exp_golomb()
        if bits.take(1):  # decoder model
            delay_bits = bits.take(5) + 1
            bits.take(42)
    display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if display_delay and bits.take(1):
            bits.take(4)


class _Bits:
    """Reads numbers of any width, the most significant bit first."""

    def __init__(self, data: bytes) -> None:
        if len(data) > 256:
            raise CorruptImage("a sequence header of the AVIF image is too long")
        self._left, self._value = 8 * len(data), int.from_bytes(data, "big")

    def take(self, width: int) -> int:
        self._left -= width
        if self._left < 0:
            raise IndexError
        return self._value >> self._left & (1 << width) - 1

    def pass_exp_golomb(self) -> None:
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        self.take(zeros if zeros < 32 else 0)


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    """Return the number and where it ends."""
    value = 0
    for i in range(8):
        value |= (data[position + i] & 127) << 7 * i
        if data[position + i] < 128:
            return value, position + i + 1
    raise CorruptImage("a number in the AVIF image does not end")


def _number(data: bytes, position: int, width: int) -> int:
    if position + width > len(data):
        raise IndexError
    return int.from_bytes(data[position : position + width], "big")
