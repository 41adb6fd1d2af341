"""A contact sheet renders whatever a search may answer."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from lookalike import contact_sheet
from lookalike.contact_sheet import MAX_HITS, render_contact_sheet
from lookalike.schemas import Attribute, Detection, Hit, ImageInfo, IndexInfo, SearchResponse, Subject

QUERY = Image.new("RGB", (400, 300), (90, 120, 90))
SUBJECT = Subject(box=(100, 60, 300, 240), source="detector", score=0.8, label="cup")


def hits(count: int, **fields: object) -> list[Hit]:
    return [Hit.model_validate({"item_id": f"item-{n}", "similarity": 0.9 - n / 1000, **fields}) for n in range(count)]


def response(**changes: object) -> SearchResponse:
    fields = {
        "request_id": "r-1",
        "image": ImageInfo(width=400, height=300, format="JPEG"),
        "subject": SUBJECT,
        "detections": [Detection(box=SUBJECT.box, score=0.8, label="cup")],
        "hits": hits(3, title="A cup", attributes={"baseColour": "Red"}),
        "index": IndexInfo(version="v1", count=3, kind="flat"),
        "attributes": [Attribute(name="season", label="Summer", score=0.9, sure=True)],
        "timings_ms": {"decode": 3.0, "detect": 30.0, "total": 40.0},
    }
    return SearchResponse.model_validate(fields | changes)


def no_thumbnail(hit: Hit) -> None:
    return None


def blue_thumbnail(hit: Hit) -> Image.Image:
    return Image.new("RGB", (50, 80), (0, 0, 255))


def count_of(sheet: Image.Image, colour: str) -> int:
    return int((np.asarray(sheet) == ImageColor.getrgb(colour)).all(axis=-1).sum())


def test_each_hit_that_has_a_thumbnail_shows_it() -> None:
    sheets = [render_contact_sheet(QUERY, response(hits=hits(count)), blue_thumbnail) for count in (1, 3)]
    one, three = (count_of(sheet, "#0000ff") for sheet in sheets)
    assert three == 3 * one > 0


def test_a_missing_thumbnail_does_not_cost_the_sheet() -> None:
    sheet = render_contact_sheet(QUERY, response(), no_thumbnail)
    assert sheet.size == render_contact_sheet(QUERY, response(), blue_thumbnail).size
    assert count_of(sheet, "#0000ff") == 0


def test_no_hits_no_attributes_no_timings_and_no_detections_render() -> None:
    empty = response(hits=[], attributes=None, timings_ms={}, detections=[], degraded=["metadata"])
    assert render_contact_sheet(QUERY, empty, no_thumbnail).mode == "RGB"


def test_the_sheet_ends_after_its_share_of_many_hits() -> None:
    seen: list[str] = []
    full = render_contact_sheet(QUERY, response(hits=hits(MAX_HITS)), no_thumbnail)
    many = render_contact_sheet(QUERY, response(hits=hits(500)), lambda hit: seen.append(hit.item_id))
    assert many.size == full.size
    assert len(seen) == MAX_HITS


def test_the_subject_is_framed_in_its_colour_and_the_others_in_theirs() -> None:
    other = Detection(box=(0, 0, 80, 80), score=0.4, label="table")
    alone = render_contact_sheet(QUERY, response(hits=[]), no_thumbnail)
    both = render_contact_sheet(QUERY, response(hits=[], detections=[*response().detections, other]), no_thumbnail)
    assert count_of(alone, contact_sheet._OTHER) == 0
    assert count_of(both, contact_sheet._OTHER) > 300
    assert count_of(alone, contact_sheet._ACCENT) > 300
    whole = response(hits=[], subject=Subject(box=(0, 0, 400, 300), source="whole_image"), detections=[])
    assert count_of(render_contact_sheet(QUERY, whole, no_thumbnail), contact_sheet._ACCENT) == 0


def test_an_attribute_that_is_not_sure_is_grey() -> None:
    def bars(sure: bool) -> int:
        attribute = Attribute(name="season", label="Summer", score=0.5, sure=sure)
        sheet = render_contact_sheet(QUERY, response(attributes=[attribute], timings_ms={}), no_thumbnail)
        return count_of(sheet, contact_sheet._BAR)

    assert bars(True) > 0 == bars(False)


@pytest.mark.parametrize(
    "title",
    [
        "",
        "Гусь",
        "鴨 カモ",
        "naïve café — №5",
        "🦆",
        "مرحبا",
        "two\nlines\tand a tab",
        "\ud800 half a letter",
        "\0",
        "x" * 50_000,
    ],
)
@pytest.mark.parametrize("fonts_of_the_system", [True, False])
def test_any_title_renders(title: str, fonts_of_the_system: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not fonts_of_the_system:
        monkeypatch.setattr(contact_sheet, "_system_font", lambda size_px: None)
    fields = {"title": title, "attributes": {title[:50]: title}}
    with_title = response().model_copy(update={"hits": [hits(1)[0].model_copy(update=fields)]})
    assert render_contact_sheet(QUERY, with_title, no_thumbnail).width == 1400


@pytest.mark.parametrize(
    "box", [(-50, -50, 900, 900), (399.5, 299.5, 400, 300), (500, 500, 600, 600), (10, 10, 10, 10), (0, 0, 0.1, 300)]
)
def test_a_box_anywhere_renders(box: tuple[float, float, float, float]) -> None:
    odd = response(
        subject=SUBJECT.model_copy(update={"box": box}), detections=[Detection(box=box, score=1, label="odd")]
    )
    assert render_contact_sheet(QUERY, odd, no_thumbnail).width == 1400


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 3000)])
def test_a_query_of_any_shape_renders(size: tuple[int, int]) -> None:
    assert render_contact_sheet(Image.new("RGB", size), response(), blue_thumbnail).width == 1400


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two three four", ["one two", "three f…"]),
        ("short", ["short"]),
        ("", []),
        ("unbreakablewordthatislong", ["unbreakablew…"]),
    ],
)
def test_text_is_wrapped_between_words_and_elided(text: str, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_sheet, "_wide", lambda text, size_px: 10.0 * len(text))
    width = 80 if " " in text else 130
    assert contact_sheet._wrap(text, 16, width, lines=2) == lines
