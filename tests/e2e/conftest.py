"""A real browser on the page, before the TorchServe of tests/served.py."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from lookalike.gateway.index_view import IndexView
from lookalike.server import ServerProcess
from tests.e2e.browsing import FLAGS, KEEP_BLOBS, SIZES, WAIT_MS
from tests.e2e.surroundings import ROOT
from tests.gateway_running import running_gateway


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium: `make browser` installs it")
    # Of the module, not the session: Playwright's loop would still run when asynchronous tests start theirs.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, "--use-fake-device-for-media-stream"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_gateway(server: ServerProcess, index_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gateway with the page, before the real server; anyone may search."""
    catalogue = Path(IndexView(index_dir).item("disc-red").path).parent
    settings = {"catalogue_roots": [catalogue], "cache_dir": tmp_path_factory.mktemp("cache"), "rate": ""}
    with running_gateway(
        upstream_url=server.base_url, index_dir=index_dir, web_dir=ROOT / "web", thumbnail_rate="", **settings
    ) as url:
        yield url


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, browser: Browser, page_gateway: str) -> Iterator[Page]:
    """The page, opened; a script error or a refusal by the content policy fails the test."""
    dark = request.param == "phone"
    context = browser.new_context(
        viewport=SIZES[request.param],
        has_touch=dark,
        color_scheme="dark" if dark else "light",
        permissions=["clipboard-read", "clipboard-write", "camera"],
    )
    context.set_default_timeout(WAIT_MS)
    context.add_init_script(KEEP_BLOBS)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda told: wrong.append(told.text) if "Content Security Policy" in told.text else None)
    page.goto(page_gateway)
    yield page
    context.close()
    assert wrong == []
