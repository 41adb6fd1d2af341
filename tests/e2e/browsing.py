"""What the tests of the page do in a real browser: choose a photo, wait for its hits, look at what was sent."""

import base64
from typing import Any

from PIL import Image
from playwright.sync_api import Page, expect

from lookalike.schemas import SearchResponse
from tests.e2e.catalogue_drawn import draw

SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
WAIT_MS = 20_000
# The content policy lets no script fetch a blob: address, and Playwright sees no Blob that is sent: both are kept
# as the page hands them to the browser.
KEEP_BLOBS = """
    window.shown = new Map();
    const make = URL.createObjectURL;
    URL.createObjectURL = (blob) => { const url = make(blob); window.shown.set(url, blob); return url; };
    const plain = window.fetch;
    window.fetch = (url, request) => {
        if (String(url).endsWith('/predictions/search')) window.sent = request.body;
        return plain(url, request);
    };
    window.bytesOf = async (blob) => {
        const bytes = new Uint8Array(await blob.arrayBuffer());
        return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
    };
"""


def scene() -> Image.Image:
    """Return a photo of two things: a red ring on the left, a blue cross on the right."""
    wide = Image.new("RGB", (1400, 700), (225, 225, 220))
    wide.paste(draw("ring", "red", seed=5).resize((560, 560)), (60, 70))
    wide.paste(draw("cross", "blue", seed=6).resize((560, 560)), (780, 70))
    return wide


def choose(page: Page, picture: bytes, name: str = "photo.jpg") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/jpeg", "buffer": picture})


def settled(page: Page) -> None:
    """Wait until hits are on the page and no search is under way."""
    expect(page.locator("#status")).to_contain_text("hits among 36 items")
    expect(page.locator("#hits")).to_have_attribute("aria-busy", "false")


def searched(page: Page, act: Any) -> SearchResponse:
    """Do something that starts a search; return its answer when the page shows it."""
    # The client sends again what was answered with 503: the machine may be busy.
    with page.expect_response(lambda reply: reply.url.endswith("/predictions/search") and reply.ok) as caught:
        act()
    response = SearchResponse.model_validate_json(caught.value.body())
    settled(page)
    return response


def crop_on_page(page: Page) -> bytes:
    """Return the bytes of the picture that the page shows as what is searched."""
    shown = "window.bytesOf(window.shown.get(document.querySelector('#crop img').src))"
    return base64.b64decode(page.evaluate(shown))


def crop_sent(page: Page) -> bytes:
    """Return the bytes that the last search sent."""
    return base64.b64decode(page.evaluate("window.bytesOf(window.sent)"))


def box_of(page: Page) -> dict[str, float]:
    box = page.locator(".region[aria-pressed=true]").bounding_box()
    assert box is not None
    return box
