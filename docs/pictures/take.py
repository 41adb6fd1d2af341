"""Takes the README's pictures of the page from the running demo (`make demo`, `make screenshots`)."""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from lookalike.errors import LookalikeError, NotReady, SetupError
from lookalike.gateway.process import running_gateway

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
QUERY = ROOT / "var/demo/query.jpg"
QUALITY = 82
FLAGS = ["--no-sandbox", "--disable-gpu"]
SIZES = {"page-desktop": (1280, 860, 1.25), "page-phone": (390, 844, 1.5)}


def main() -> None:
    """Search the demo's photo on the page, at each size, light and dark."""
    gateway, chromium = running_gateway(ROOT / "var"), shutil.which("chromium")
    if gateway is None:
        raise NotReady("the demo does not run: `make demo` starts it")
    if chromium is None:
        raise SetupError("there is no chromium", allowed="make browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for name in SIZES:
            for scheme in ("light", "dark"):
                keep(shown(browser, gateway.base_url, name, scheme), HERE / f"{name}-{scheme}.webp")
        browser.close()


def shown(browser: Browser, url: str, name: str, scheme: str) -> bytes:
    """Return a picture (PNG) of the page with the demo's hits."""
    width, height, scale = SIZES[name]
    phone = name == "page-phone"
    context = browser.new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=scale,
        color_scheme=scheme,  # type: ignore[arg-type]
        has_touch=phone,
        is_mobile=phone,
    )
    page = context.new_page()
    page.goto(url)
    search(page)
    picture = page.screenshot()
    context.close()
    return picture


def search(page: Page) -> None:
    """Search the demo's photo and wait for the pictures of its hits."""
    page.set_input_files("#file", QUERY)
    expect(page.locator("#status")).to_contain_text("hits among")
    page.wait_for_load_state("networkidle")


def keep(picture: bytes, path: Path) -> None:
    """Write a picture as WebP."""
    Image.open(io.BytesIO(picture)).convert("RGB").save(path, "WEBP", quality=QUALITY, method=6)
    sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB\n")


if __name__ == "__main__":
    try:
        main()
    except LookalikeError as error:
        sys.exit(f"error: {error.message}")
