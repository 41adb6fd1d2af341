"""What the page offers besides a photo of one's own: pictures of the catalogue, and the client for other pages."""

import base64
import io
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, Route, expect

from lookalike.gateway.index_view import IndexView
from tests.e2e.browsing import choose, crop_sent, scene, searched, settled
from tests.e2e.catalogue_drawn import draw, encoded


def test_who_has_no_photo_searches_by_one_of_the_catalogue(page: Page, index_dir: Path) -> None:
    samples = page.locator("#samples button")
    expect(samples).to_have_count(8)
    expect(samples.first.locator("img")).to_have_js_property("naturalWidth", 256)
    title = samples.nth(2).get_attribute("title")
    answer = searched(page, samples.nth(2).click)
    assert answer.hits[0].title == title
    item = IndexView(index_dir).item(answer.hits[0].item_id)
    # What is sent is cut from the item's own picture: its darkest and brightest colours are there.
    own, sent = (Image.open(file).convert("RGB") for file in (item.path, io.BytesIO(crop_sent(page))))
    ranges = zip(own.getextrema(), sent.getextrema(), strict=True)
    assert all(abs(a - b) < 40 for one, other in ranges for a, b in zip(one, other, strict=True))
    page.get_by_role("button", name="Another photo").click()
    expect(samples.first).to_be_visible()


def test_samples_of_a_hostile_catalogue_stay_text(page: Page) -> None:
    title = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"

    def hostile(route: Route) -> None:
        answer = (reply := route.fetch()).json()
        answer["samples"][0]["title"] = title
        route.fulfill(response=reply, json=answer)

    page.route("**/samples", hostile)
    page.reload()
    expect(page.locator("#samples button").first).to_have_attribute("title", title)
    expect(page.locator("#samples img").first).to_have_attribute("alt", f"Search by {title}")
    searched(page, page.locator("#samples button").first.click)
    assert page.locator("#samples script").count() == 0 and page.locator("#samples img").count() == 8
    assert page.title() == "Lookalike: search by image"


def test_where_none_are_offered_the_page_shows_none(page: Page) -> None:
    page.route("**/samples", lambda route: route.fulfill(json={"version": "1", "samples": []}))
    with page.expect_response("**/samples"):
        page.reload()
    expect(page.locator("#catalogue")).to_have_text("36 items in the catalogue")
    expect(page.locator("#samples")).to_be_hidden()


def test_a_search_under_way_is_shown_until_its_answer_is(page: Page) -> None:
    held: list[Route] = []
    page.route("**/predictions/search", lambda route: held.append(route))
    with page.expect_request("**/predictions/search"):
        choose(page, encoded(scene()))
    expect(page.locator("#busy")).to_be_visible()
    held[0].continue_()
    settled(page)
    expect(page.locator("#busy")).to_be_hidden()


def test_two_trips_of_the_client_find_what_one_finds_for_a_fraction_of_the_bytes(page: Page) -> None:
    ground = Image.new("RGB", (3000, 2000), (225, 222, 210))
    ground.paste(draw("disc", "blue", 4).resize((900, 900)), (1200, 500))
    photo = encoded(ground, "PNG")
    told = page.evaluate(
        """async (data) => {
            const { Lookalike } = await import('/lookalike.js');
            const photo = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const client = new Lookalike();
            return { once: await client.search(photo, { top_k: 1 }), twice: await client.twoTrip(photo, { top_k: 1 }) };
        }""",
        base64.b64encode(photo).decode(),
    )
    once, twice = told["once"], told["twice"]
    assert twice["response"]["hits"][0]["item_id"] == once["hits"][0]["item_id"]
    assert twice["response"]["subject"]["source"] == "whole_image"
    assert max(abs(a - b) for a, b in zip(twice["box"], once["subject"]["box"], strict=True)) < 60
    assert twice["sentBytes"] < len(photo) / 2


def test_two_trips_of_what_the_browser_cannot_decode_are_one(page: Page) -> None:
    photo = encoded(draw("disc", "blue", 4), "TIFF")
    script = """async (data) => {
        const { Lookalike } = await import('/lookalike.js');
        const photo = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        return new Lookalike().twoTrip(photo, { top_k: 1 });
    }"""
    told = page.evaluate(script, base64.b64encode(photo).decode())
    assert (told["box"], told["sentBytes"]) == (None, len(photo))
    assert told["response"]["hits"][0]["item_id"] == "disc-blue"
