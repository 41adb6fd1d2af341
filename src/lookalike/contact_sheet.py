"""One picture of one search: the query with its boxes, the crop, the hits, the attributes and the time that it took."""

import functools
import math
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from lookalike.errors import InvalidOption
from lookalike.images import crop_box
from lookalike.schemas import Attribute, Box, Hit, SearchResponse, Subject

MAX_HITS = 20

_WIDTH, _MARGIN, _GAP = 1400, 40, 20
_HEADER, _CAPTION, _FOOT_ROW = 84, 30, 26
_QUERY_SIZE, _CROP_SIZE = (760, 520), (540, 520)
_COLUMNS, _THUMBNAIL_HEIGHT, _CARD_TEXT = 5, 196, 118

_PAPER, _CARD, _LINE = "#f4f3f0", "#ffffff", "#dedcd6"
_INK, _SOFT, _FAINT = "#1d1d1f", "#6b6a67", "#a9a7a1"
_ACCENT, _OTHER, _BAR = "#d8432f", "#f2c14e", "#3f7cac"


_OWN_LETTERS = frozenset(map(chr, range(32, 127))) | frozenset("…·“”")

_LONGEST = 400  # letters: more never fit on a line or two, and each is measured

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class _Area(NamedTuple):
    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height

    def inset(self, by: int) -> "_Area":
        return _Area(self.left + by, self.top + by, self.width - 2 * by, self.height - 2 * by)


def render_contact_sheet(
    query: Image.Image, response: SearchResponse, thumbnails: Callable[[Hit], Image.Image | None]
) -> Image.Image:
    """Return the sheet (RGB, 1400 px wide) for one search.

    `query` is the decoded image whose pixels the response's boxes count. `thumbnails` gives a hit's picture (RGB), or
    `None` where there is none. The best subject's first 20 hits are shown.
    """
    rows = max(1, math.ceil(min(len(response.hits), MAX_HITS) / _COLUMNS))
    hits_top = _HEADER + _QUERY_SIZE[1] + _CAPTION + _GAP
    foot_top = hits_top + _CAPTION + rows * (_THUMBNAIL_HEIGHT + _CARD_TEXT + _GAP) + _GAP
    foot_rows = max(len(response.timings_ms), len(response.attributes or ()), 1)
    sheet = Image.new("RGB", (_WIDTH, foot_top + _CAPTION + foot_rows * _FOOT_ROW + _MARGIN), _PAPER)
    _draw_header(sheet, response)
    _draw_query(sheet, _Area(_MARGIN, _HEADER, *_QUERY_SIZE), query, response)
    _draw_crop(sheet, _Area(_WIDTH - _MARGIN - _CROP_SIZE[0], _HEADER, *_CROP_SIZE), query, response)
    _draw_hits(sheet, hits_top, response.hits, thumbnails)
    half = (_WIDTH - 3 * _MARGIN) // 2
    _draw_timings(sheet, _Area(_MARGIN, foot_top, half, 0), response.timings_ms)
    _draw_attributes(sheet, _Area(_WIDTH - _MARGIN - half, foot_top, half, 0), response)
    return sheet


@functools.cache
def _own_font(size_px: int) -> _Font:
    return ImageFont.load_default(size_px)


@functools.cache
def _system_font(size_px: int) -> _Font | None:
    for name in ("NotoSans-Regular.ttf", "DejaVuSans.ttf", "LiberationSans-Regular.ttf", "Arial Unicode.ttf"):
        try:
            return ImageFont.truetype(name, size_px)
        except OSError:
            continue
    return None


def _font(text: str, size_px: int) -> _Font:
    """Return Pillow's own font, or the system's for what that lacks: it has little beyond ASCII."""
    own = _own_font(size_px)
    return own if set(text) <= _OWN_LETTERS else _system_font(size_px) or own


def _printable(text: str) -> str:
    """Return `text` on one line, without what cannot be drawn; without accents where no font has them."""
    line = " ".join(text.encode("utf-8", "replace").decode().replace("\0", " ").split())
    if set(line) <= _OWN_LETTERS or _system_font(16):
        return line
    plain = (letter for letter in unicodedata.normalize("NFKD", line) if not unicodedata.combining(letter))
    return "".join(letter if letter in _OWN_LETTERS else "?" for letter in plain)


def _write(
    sheet: Image.Image, at: tuple[float, float], text: str, size_px: int, colour: str, anchor: str = "ls"
) -> None:
    text = _printable(text)
    ImageDraw.Draw(sheet).text(at, text, colour, _font(text, size_px), anchor)


def _wide(text: str, size_px: int) -> float:
    return _font(text, size_px).getlength(text)


def _elide(text: str, size_px: int, width: float) -> str:
    """Return as much of `text` as fits into `width` px, with an ellipsis where it is cut."""
    text = _printable(text)[:_LONGEST]
    if _wide(text, size_px) <= width:
        return text
    while text and _wide(text + "…", size_px) > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _wrap(text: str, size_px: int, width: float, lines: int) -> list[str]:
    """Break `text` between words into at most `lines` lines of `width` px; the last one is elided."""
    words, broken = _printable(text)[:_LONGEST].split(), list[str]()
    while words and len(broken) < lines - 1:
        line = words.pop(0)
        while words and _wide(f"{line} {words[0]}", size_px) <= width:
            line += " " + words.pop(0)
        broken.append(_elide(line, size_px, width))
    return [*broken, _elide(" ".join(words), size_px, width)] if words else broken


def _draw_header(sheet: Image.Image, response: SearchResponse) -> None:
    _write(sheet, (_MARGIN, 54), "Lookalike", 30, _INK)
    index = response.index
    facts = [f"{index.count:,} items", f"index {index.version} ({index.kind})", f"request {response.request_id}"]
    if response.degraded:
        facts.insert(0, "without " + ", ".join(response.degraded))
    text = _elide("  ·  ".join(facts), 16, _WIDTH - 2 * _MARGIN - 200)
    _write(sheet, (_WIDTH - _MARGIN, 52), text, 16, _SOFT, "rs")


def _paste_inside(sheet: Image.Image, area: _Area, picture: Image.Image) -> _Area:
    """Paste `picture` into the middle of `area`, as large as it fits; return where it lies."""
    scale = min(area.width / picture.width, area.height / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    left, top = area.left + (area.width - size[0]) // 2, area.top + (area.height - size[1]) // 2
    sheet.paste(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0), (left, top))
    return _Area(left, top, *size)


def _draw_frame(sheet: Image.Image, area: _Area) -> None:
    ImageDraw.Draw(sheet).rounded_rectangle((area.left, area.top, area.right, area.bottom), 6, _CARD, _LINE)


def _draw_query(sheet: Image.Image, area: _Area, query: Image.Image, response: SearchResponse) -> None:
    _draw_frame(sheet, area)
    picture = _paste_inside(sheet, area.inset(8), query)
    scale = picture.width / query.width
    subject = response.subject
    for detection in reversed(response.detections):  # the best ones on top
        if detection.box != subject.box:
            _draw_box(sheet, picture, detection.box, scale, _OTHER, f"{detection.label} {detection.score:.0%}")
    if subject.source != "whole_image":
        _draw_box(sheet, picture, subject.box, scale, _ACCENT, _subject_words(subject))
    image = response.image
    _write(sheet, (area.left, area.bottom + 24), f"Query: {image.format}, {image.width} x {image.height} px", 16, _SOFT)


def _subject_words(subject: Subject) -> str:
    if subject.source == "client":
        return "your box"
    return f"{subject.label or 'subject'} {subject.score:.0%}" if subject.score is not None else "whole image"


def _draw_box(sheet: Image.Image, picture: _Area, box: Box, scale: float, colour: str, label: str) -> None:
    """Draw a box (in the query's pixels) over the picture, with a tag; both stay inside of it."""
    left, right = (picture.left + min(max(edge * scale, 0), picture.width - 1) for edge in (box[0], box[2]))
    top, bottom = (picture.top + min(max(edge * scale, 0), picture.height - 1) for edge in (box[1], box[3]))
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=colour, width=4 if colour == _ACCENT else 2)
    text = _elide(label, 15, picture.width - 12)
    width = _wide(text, 15) + 12
    tag_left = max(picture.left, min(left, picture.right - width))
    tag_top = top - 22 if top - 22 >= picture.top else top
    pen.rectangle((tag_left, tag_top, tag_left + width, tag_top + 22), fill=colour)
    _write(sheet, (tag_left + 6, tag_top + 16), text, 15, _INK if colour == _OTHER else _CARD)


def _draw_crop(sheet: Image.Image, area: _Area, query: Image.Image, response: SearchResponse) -> None:
    _draw_frame(sheet, area)
    try:
        _paste_inside(sheet, area.inset(8), crop_box(query, response.subject.box))
    except InvalidOption:
        _write(sheet, (area.left + area.width / 2, area.top + area.height / 2), "no crop", 16, _FAINT, "mm")
    name = response.product_display_name
    words = f"Crop: {_subject_words(response.subject)}" + (f", {name}" if name else "")
    _write(sheet, (area.left, area.bottom + 24), _elide(words, 16, area.width), 16, _SOFT)


def _draw_hits(sheet: Image.Image, top: int, hits: list[Hit], thumbnails: Callable[[Hit], Image.Image | None]) -> None:
    shown = hits[:MAX_HITS]
    words = f"{len(hits)} hits" if len(shown) == len(hits) else f"The first {MAX_HITS} of {len(hits)} hits"
    _write(sheet, (_MARGIN, top + 16), words if hits else "No hits", 20, _INK)
    width = (_WIDTH - 2 * _MARGIN - (_COLUMNS - 1) * _GAP) // _COLUMNS
    height = _THUMBNAIL_HEIGHT + _CARD_TEXT
    for position, hit in enumerate(shown):
        row, column = divmod(position, _COLUMNS)
        left = _MARGIN + column * (width + _GAP)
        card = _Area(left, top + _CAPTION + row * (height + _GAP), width, height)
        _draw_hit(sheet, card, position + 1, hit, thumbnails(hit))
    if not hits:
        middle = (_WIDTH / 2, top + _CAPTION + height / 2)
        _write(sheet, middle, "No item of the catalogue is similar enough and passes the filters.", 18, _FAINT, "mm")


def _draw_hit(sheet: Image.Image, card: _Area, rank: int, hit: Hit, thumbnail: Image.Image | None) -> None:
    _draw_frame(sheet, card)
    picture = _Area(card.left, card.top, card.width, _THUMBNAIL_HEIGHT).inset(10)
    if thumbnail is None:
        _write(
            sheet, (picture.left + picture.width / 2, picture.top + picture.height / 2), "no picture", 15, _FAINT, "mm"
        )
    else:
        _paste_inside(sheet, picture, thumbnail)
    left, right, line = card.left + 14, card.right - 14, card.top + _THUMBNAIL_HEIGHT + 22
    _write(sheet, (left, line), str(rank), 20, _ACCENT if rank == 1 else _INK)
    _write(sheet, (right, line), f"{hit.similarity:.3f}", 20, _INK, "rs")
    for row, text in enumerate(_wrap(hit.title or hit.item_id, 16, right - left, lines=2)):
        _write(sheet, (left, line + 28 + 20 * row), text, 16, _INK)
    attributes = _elide(" · ".join(hit.attributes.values()), 14, right - left)
    _write(sheet, (left, card.bottom - 12), attributes, 14, _SOFT)


def _draw_timings(sheet: Image.Image, area: _Area, timings_ms: dict[str, float]) -> None:
    """Draw one bar a stage, all on the scale of the longest; stages that run side by side each show their own time."""
    _write(sheet, (area.left, area.top), "Time, ms", 20, _INK)
    longest = max(timings_ms.values(), default=0.0) or 1.0
    ordered = sorted(timings_ms.items(), key=lambda stage: stage[0] == "total")
    for row, (stage, ms) in enumerate(ordered):
        line = area.top + _CAPTION + row * _FOOT_ROW
        colour = _INK if stage == "total" else _BAR
        _draw_bar(sheet, _Area(area.left, line, area.width, _FOOT_ROW), stage, f"{ms:.1f}", ms / longest, colour)


def _draw_attributes(sheet: Image.Image, area: _Area, response: SearchResponse) -> None:
    """Draw one bar an attribute, by the model's confidence; what it is not sure of is grey."""
    _write(sheet, (area.left, area.top), "Attributes of the crop", 20, _INK)
    if response.attributes is None:
        _write(sheet, (area.left, area.top + _CAPTION + 14), "not asked for, or not available", 15, _FAINT)
    for row, attribute in enumerate(response.attributes or ()):
        line = area.top + _CAPTION + row * _FOOT_ROW
        words = f"{attribute.name}: {attribute.label}" + ("" if attribute.sure else "?")
        colour = _BAR if attribute.sure else _FAINT
        _draw_bar(
            sheet, _Area(area.left, line, area.width, _FOOT_ROW), words, _percent(attribute), attribute.score, colour
        )


def _percent(attribute: Attribute) -> str:
    return f"{attribute.score:.0%}"


def _draw_bar(sheet: Image.Image, area: _Area, label: str, value: str, share: float, colour: str) -> None:
    label_width, value_width = 220, 70
    text_colour = _FAINT if colour == _FAINT else _INK
    line = area.top + 14
    _write(sheet, (area.left, line), _elide(label, 15, label_width - 12), 15, text_colour)
    start = area.left + label_width
    room = area.width - label_width - value_width
    length = max(1, round(room * min(max(share, 0.0), 1.0)))
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((start, area.top + 3, start + room, area.top + 15), fill=_LINE)
    pen.rectangle((start, area.top + 3, start + length, area.top + 15), fill=colour)
    _write(sheet, (area.right, line), value, 15, text_colour, "rs")
