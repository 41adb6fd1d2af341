"""The search page in a real browser, on the gateway and a real TorchServe: every way to search, at two sizes."""

import base64
import io
import json
import subprocess
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from lookalike.gateway.index_view import IndexView
from lookalike.gateway.keys import new_key
from lookalike.server import ServerProcess
from tests.e2e.browsing import box_of, choose, crop_on_page, crop_sent, scene, searched, settled
from tests.e2e.catalogue_drawn import draw, encoded
from tests.e2e.surroundings import ROOT
from tests.gateway_running import running_gateway


def test_a_photo_is_searched_by_its_best_region_and_the_bytes_sent_are_those_shown(page: Page) -> None:
    answer = searched(page, lambda: choose(page, encoded(scene())))
    crop = crop_on_page(page)
    assert crop_sent(page) == crop
    assert max(Image.open(io.BytesIO(crop)).size) <= 512
    cards = page.locator("#hits > li")
    expect(cards).to_have_count(24)
    expect(cards.first.locator(".title")).to_have_text(answer.hits[0].title)
    expect(cards.first.locator("img")).to_have_js_property("naturalWidth", 256)
    expect(page.locator("#upload")).to_contain_text("kB sent")
    expect(page.locator("#timing dl")).to_contain_text("in all")


def test_regions_are_chosen_moved_resized_and_drawn(page: Page) -> None:
    searched(page, lambda: choose(page, encoded(scene())))
    # The whole photo, then a region drawn around the cross.
    searched(page, lambda: page.get_by_role("button", name="Whole photo").click())
    expect(page.locator(".region[aria-pressed=true]")).to_have_count(0)
    frame = page.locator("#regions").bounding_box()
    assert frame is not None

    def drag(start: tuple[float, float], end: tuple[float, float]) -> None:
        page.mouse.move(frame["x"] + start[0] * frame["width"], frame["y"] + start[1] * frame["height"])
        page.mouse.down()
        page.mouse.move(frame["x"] + end[0] * frame["width"], frame["y"] + end[1] * frame["height"], steps=5)
        page.mouse.up()

    answer = searched(page, lambda: drag((0.50, 0.02), (0.97, 0.97)))
    assert answer.hits[0].item_id.startswith("cross")
    before, crop = box_of(page), crop_on_page(page)
    # By keyboard: arrows move, with Shift they resize; what is sent changes with it.
    page.locator(".region[aria-pressed=true]").focus()
    searched(page, lambda: page.keyboard.press("ArrowLeft"))
    moved = box_of(page)
    assert moved["x"] < before["x"]
    assert moved["width"] == pytest.approx(before["width"], abs=1)
    assert crop_on_page(page) != crop
    assert crop_sent(page) == crop_on_page(page)
    searched(page, lambda: page.keyboard.press("Shift+ArrowUp"))
    assert box_of(page)["height"] < moved["height"]
    assert page.evaluate("document.activeElement.className") == "region"
    # By pointer: the region follows, and its corner resizes it.
    moved = box_of(page)
    middle = ((moved["x"] + moved["width"] / 2 - frame["x"]) / frame["width"], 0.5)
    searched(page, lambda: drag(middle, (middle[0] - 0.1, 0.5)))
    assert box_of(page)["x"] < moved["x"] - 10


def test_attributes_filter_and_the_filter_can_be_taken_away(page: Page) -> None:
    searched(page, lambda: choose(page, encoded(draw("ring", "red", seed=5))))
    disc = page.locator("#hits").get_by_role("button", name="disc").first
    answer = searched(page, disc.click)
    assert {hit.attributes["shape"] for hit in answer.hits} == {"disc"}
    remove = page.get_by_role("button", name="Remove shape: disc")
    answer = searched(page, remove.click)
    assert len({hit.attributes["shape"] for hit in answer.hits}) > 1
    expect(page.locator("#filters")).to_be_hidden()


def test_more_and_less_like_a_hit_change_the_hits(page: Page) -> None:
    plain = searched(page, lambda: choose(page, encoded(draw("ring", "red", seed=5))))
    first, later = plain.hits[0], plain.hits[6]
    answer = searched(page, lambda: page.get_by_role("button", name=f"Less like {first.title}", exact=True).click())
    assert first.item_id not in {hit.item_id for hit in answer.hits}
    answer = searched(page, lambda: page.get_by_role("button", name=f"More like {later.title}", exact=True).click())
    ranks = [hit.item_id for hit in answer.hits]
    assert ranks.index(later.item_id) < 5
    answer = searched(page, lambda: page.get_by_role("button", name=f"Remove less like {first.title}").click())
    assert first.item_id in {hit.item_id for hit in answer.hits}


def test_a_photo_comes_by_paste_drop_and_camera(page: Page) -> None:
    data = base64.b64encode(encoded(draw("disc", "green", seed=5))).decode()
    give = """([kind, data]) => {
        const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], 'photo.jpg', { type: 'image/jpeg' }));
        const event = kind === 'paste'
            ? new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true })
            : new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event);
    }"""
    for kind in ("paste", "drop"):
        searched(page, lambda kind=kind: page.evaluate(give, [kind, data]))
        page.get_by_role("button", name="Another photo").click()
    page.get_by_role("button", name="Take a photo").click()
    searched(page, lambda: page.get_by_role("button", name="Take the photo").click())


@pytest.mark.parametrize("name", ["notes.txt", "photo.jpg"])
def test_a_bad_upload_is_told_and_the_page_goes_on(page: Page, name: str) -> None:
    choose(page, b"this is no picture", name)
    expect(page.locator("#error")).to_contain_text("Allowed: ")
    expect(page.locator("#error")).to_contain_text("JPEG")
    # The browser cannot cut what it cannot show.
    expect(page.get_by_role("button", name="Whole photo")).to_be_hidden()
    searched(page, lambda: choose(page, encoded(draw("disc", "green", seed=5))))
    expect(page.locator("#error")).to_be_hidden()


def test_a_service_that_fails_is_told_and_tried_again(page: Page) -> None:
    searched(page, lambda: choose(page, encoded(scene())))
    page.route("**/predictions/search", lambda route: route.abort())
    page.get_by_role("button", name="Whole photo").click()
    expect(page.locator("#error")).to_contain_text("cannot be reached")
    page.unroute("**/predictions/search")
    searched(page, lambda: page.get_by_role("button", name="Whole photo").click())
    expect(page.locator("#error")).to_be_hidden()


def test_nothing_found_says_what_to_do(page: Page) -> None:
    def empty(route: Route) -> None:
        reply = route.fetch()
        route.fulfill(response=reply, json=reply.json() | {"hits": []})

    page.route("**/predictions/search", empty)
    choose(page, encoded(scene()))
    expect(page.locator("#nothing")).to_contain_text("Choose another region")


def test_titles_and_addresses_of_a_hostile_catalogue_stay_text(page: Page) -> None:
    title = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"

    def hostile(route: Route) -> None:
        reply = route.fetch()
        answer = reply.json()
        answer["hits"][0] |= {"title": title, "url": "javascript:document.title='taken'", "attributes": {title: title}}
        answer["hits"][1] |= {"url": "https://example.org/item"}
        route.fulfill(response=reply, json=answer)

    page.route("**/predictions/search", hostile)
    choose(page, encoded(scene()))
    settled(page)
    expect(page.locator("#hits .title").first).to_have_text(title)
    assert page.title() == "Lookalike: search by image"
    assert page.locator("#hits script, #hits .title img").count() == 0
    assert page.locator("#hits a").evaluate_all("links => links.map((link) => link.href)") == [
        "https://example.org/item"
    ]


def test_the_search_can_be_copied_as_code_that_runs(page: Page, tmp_path: Path) -> None:
    answer = searched(page, lambda: choose(page, encoded(draw("ring", "red", seed=5))))
    answer = searched(page, page.locator("#hits").get_by_role("button", name="ring").first.click)
    (tmp_path / "photo.jpg").write_bytes(crop_on_page(page))
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.locator("#status")).to_contain_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()")
    ran = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True)
    assert [hit["item_id"] for hit in json.loads(ran.stdout)["hits"]] == [hit.item_id for hit in answer.hits]
    page.get_by_role("button", name="Copy as JavaScript").click()
    expect(page.locator("#snippets pre")).to_contain_text('"filters":{"shape":["ring"]}')


def test_it_meets_wcag_aa_before_and_after_a_search(page: Page) -> None:
    rules = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
    for state in ("empty", "hits", "error"):
        if state == "hits":
            searched(page, lambda: choose(page, encoded(scene())))
            searched(page, page.locator("#hits").get_by_role("button", name="ring").first.click)
        if state == "error":
            choose(page, b"no picture", "notes.txt")
            expect(page.locator("#error")).to_be_visible()
        found = Axe().run(page, options=rules).response["violations"]
        told = [(rule["id"], node["html"][:200]) for rule in found for node in rule["nodes"]]
        # Where a region lies is where its thing lies: WCAG 2.5.8 excepts what is essential. Tab reaches each of them.
        assert [one for one in told if one[0] != "target-size" or 'class="region"' not in one[1]] == [], state


def test_a_gateway_with_keys_asks_for_one(
    browser: Browser, server: ServerProcess, index_dir: Path, tmp_path: Path
) -> None:
    secret, key = new_key("people", "read")
    catalogue = Path(IndexView(index_dir).item("disc-red").path).parent
    settings = {
        "upstream_url": server.base_url,
        "index_dir": index_dir,
        "web_dir": ROOT / "web",
        "rate": "",
        "keys": [key],
    }
    with running_gateway(**settings, catalogue_roots=[catalogue], cache_dir=tmp_path) as url:
        page = browser.new_page()
        page.goto(url)
        page.get_by_label("API key").fill(secret)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#catalogue")).to_have_text("36 items in the catalogue")
        searched(page, lambda: choose(page, encoded(draw("ring", "red", seed=5))))
        expect(page.locator("#hits img").first).to_have_js_property("naturalWidth", 256)
        page.close()
