"""A real TorchServe, started once for all tests on ports that the system chooses, and a real browser."""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from lookalike.archives import ArchiveSources, build_archives
from lookalike.catalogue import read_catalogue
from lookalike.config import IndexSettings
from lookalike.gateway.index_view import IndexView
from lookalike.server import ServerProcess, start_server
from lookalike.server_config import ServerFiles, ServerSettings
from tests.e2e.browsing import FLAGS, KEEP_BLOBS, SIZES, WAIT_MS
from tests.e2e.catalogue_drawn import write_catalogue
from tests.e2e.surroundings import HIDDEN_SECRET, ROOT
from tests.gateway_running import running_gateway


@pytest.fixture(scope="session")
def index_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 36 drawn pictures with the attributes `shape` and `colour`."""
    from lookalike.image_embedder import WholeImageEmbedder
    from lookalike.index.edits import IndexEditor

    catalogue = read_catalogue(write_catalogue(tmp_path_factory.mktemp("catalogue")))
    index = tmp_path_factory.mktemp("index")
    edit = IndexEditor(index, IndexSettings()).build(catalogue, WholeImageEmbedder.load(ROOT / "var/models/embedder"))
    assert edit.manifest.count == 36
    return index


@pytest.fixture(scope="session")
def server(index_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server: `base_url`, `metrics_url`, `management_socket`, `log_file`."""
    files = dataclasses.replace(ServerFiles.of(ROOT), index_dir=index_dir, state=tmp_path_factory.mktemp("server"))
    archives = build_archives(ArchiveSources.of(ROOT), files.archives)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LOOKALIKE_")]:
            patch.delenv(name)  # what a developer's shell sets is not what is tested
        patch.setenv("LOOKALIKE_ROUTER_INDEX_POLL_S", "0.2")
        patch.setenv("LOOKALIKE_ROUTER_MODELS", "http")  # test_in_process.py has the other way
        patch.setenv(HIDDEN_SECRET, "secret")
        with start_server(archives, files, ServerSettings(port=0, metrics_port=0)) as running:
            yield running


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
