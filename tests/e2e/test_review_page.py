"""The review page in a real browser: the flows by click and by key, at two sizes, on a trained task."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from lookalike.image_embedder import WholeImageEmbedder
from lookalike.labels.lists import read_names
from lookalike.labels.task import read_task
from lookalike.review.app import Review
from lookalike.review.label_source import TaskSource
from lookalike.review.looks import Looks
from tests.e2e.conftest import SIZES, WAIT_MS
from tests.e2e.surroundings import ROOT
from tests.label_samples import colour_embedder, save_image, write_task

train = pytest.importorskip("training.labels.train", reason="training needs the extra lookalike[train]")
HOSTILE = "<img src=x onerror=alert(1)>.png"


def colours() -> WholeImageEmbedder:
    return WholeImageEmbedder("colours", colour_embedder())


@pytest.fixture
def task_folder(tmp_path: Path) -> Path:
    """A trained task whose list of blue images holds a red one, under a name that is markup."""
    file = write_task(tmp_path)
    save_image(read_task(file).imgroot / HOSTILE, "red", seed=99)
    blue = tmp_path / "lists/blue"
    blue.write_text(blue.read_text() + f"{HOSTILE}\n")
    task = read_task(file)
    train.write_trained(train.train_task(task, colour_embedder(), None), task, tmp_path / "trained")
    return tmp_path


@pytest.fixture
def url(task_folder: Path) -> Iterator[str]:
    """The review's server, in a thread."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        source = TaskSource(task_folder / "trained")
        looks = Looks([case.path for case in source.cases], colours, task_folder / "cache")
        app = Review(source, looks).app(ROOT / "web")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(params=SIZES)
def review(request: pytest.FixtureRequest, browser: Browser, url: str) -> Iterator[Page]:
    """The page, opened; a script error, a dialog or a refusal by the content policy fails the test."""
    dark = request.param == "phone"
    context = browser.new_context(viewport=SIZES[request.param], color_scheme="dark" if dark else "light")
    context.set_default_timeout(WAIT_MS)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on("console", lambda told: wrong.append(told.text) if "Content Security Policy" in told.text else None)
    page.goto(url)
    expect(page.locator(".case").first).to_be_visible(timeout=WAIT_MS)
    yield page
    context.close()
    assert wrong == []


def names_in(file: Path) -> list[str]:
    return [name for _, name in read_names(file)]


def test_the_worst_case_is_first_and_a_key_mends_its_list(review: Page, task_folder: Path) -> None:
    first = review.locator(".case").first
    expect(first.get_by_role("img")).to_have_attribute("alt", HOSTILE)
    expect(first).to_contain_text("seen as red")
    first.focus()
    review.keyboard.press("1")  # red
    expect(review.locator("#progress")).to_contain_text("1 of 21 decided, 20 shown")
    review.get_by_role("button", name="Write back").click()
    expect(review.locator("#message")).to_contain_text("Written: ")
    assert HOSTILE in names_in(task_folder / "lists/red")
    assert HOSTILE not in names_in(task_folder / "lists/blue")


def test_a_range_is_weeded_out_undone_and_done_again(review: Page) -> None:
    cases = review.locator(".case")
    cases.nth(0).click()
    cases.nth(2).click(modifiers=["Shift"])
    expect(review.locator("#message")).to_have_text("3 selected")
    review.keyboard.press("x")
    expect(review.locator("#progress")).to_contain_text("3 of 21 decided")
    review.keyboard.press("u")
    expect(review.locator("#progress")).to_contain_text("0 of 21 decided")
    review.get_by_role("button", name="Redo").click()
    expect(review.locator("#progress")).to_contain_text("3 of 21 decided")
    review.reload()
    expect(review.locator("#progress")).to_contain_text("3 of 21 decided, 18 shown")
    review.get_by_label("State").select_option("decided")
    expect(review.locator(".verdict")).to_have_text(["weeded out"] * 3)


def test_arrows_and_space_select_and_the_guess_is_taken_by_key(review: Page) -> None:
    review.locator(".case").first.focus()
    review.keyboard.press(" ")
    review.keyboard.press("ArrowRight")
    review.keyboard.press(" ")
    expect(review.locator('[aria-selected="true"]')).to_have_count(2)
    review.keyboard.press("g")
    expect(review.locator("#progress")).to_contain_text("2 of 21 decided")
    review.keyboard.press("a")
    review.keyboard.press("k")
    expect(review.locator("#progress")).to_contain_text("21 of 21 decided, 0 shown")
    expect(review.get_by_text("Nothing is here")).to_be_visible()


def test_filters_show_what_they_name_and_a_label_can_be_typed(review: Page) -> None:
    review.locator("#label").select_option("blue")
    expect(review.locator(".case .label")).to_have_text(["blue"] * 11)
    review.locator(".case").first.click()
    typed = review.get_by_placeholder("Label as")
    typed.fill("red")
    typed.press("Enter")
    expect(review.locator("#progress")).to_contain_text("1 of 21 decided, 10 shown")
    review.locator(".case").first.click()
    typed.fill("green")
    typed.press("Enter")
    expect(review.get_by_role("alert")).to_contain_text("no label 'green'")
    expect(review.locator(".case")).to_have_count(10)


def test_all_but_one_of_each_group_of_near_duplicates_are_weeded_out(review: Page) -> None:
    review.locator("#view").select_option("near-duplicates")
    expect(review.locator(".group-start")).to_have_count(2)  # the reds and the blues
    expect(review.locator(".case")).to_have_count(21)
    review.get_by_role("button", name="Select all but the first").click()
    expect(review.locator("#message")).to_have_text("19 selected")
    review.locator("body").press("x")
    expect(review.locator("#progress")).to_contain_text("19 of 21 decided, 2 shown")


def test_a_dimension_puts_its_best_images_first(review: Page) -> None:
    review.locator("#view").select_option("dimension")
    review.locator("#dimension").fill("2")  # blue
    review.locator("#dimension").press("Enter")
    expect(review.locator(".case .label").first).to_have_text("blue")
    review.locator("#dimension").fill("99")
    review.locator("#dimension").press("Enter")
    expect(review.get_by_role("alert")).to_contain_text("no dimension 99")


def test_a_box_on_the_map_shows_its_images_in_the_grid(review: Page) -> None:
    review.locator("#view").select_option("map")
    canvas = review.locator("#map-canvas")
    expect(canvas).to_have_attribute("aria-label", "Map of 21 images", timeout=WAIT_MS)
    box = canvas.bounding_box()
    assert box is not None
    review.keyboard.down("Shift")
    review.mouse.move(box["x"] + 2, box["y"] + 2)
    review.mouse.down()
    review.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2, steps=4)
    review.mouse.up()
    review.keyboard.up("Shift")
    expect(review.locator(".case")).to_have_count(21)
    canvas.focus()
    for _ in range(12):
        review.keyboard.press("+")
    review.keyboard.press("Enter")
    expect(review.locator(".case")).not_to_have_count(21)
    canvas.focus()
    for _ in range(24):
        review.keyboard.press("-")
    review.get_by_role("button", name="Show what is in view").click()
    expect(review.locator(".case")).to_have_count(21)
    found = [f"{one['id']}: {one['help']}" for one in Axe().run(review).response["violations"]]
    assert found == []


def test_the_page_has_no_serious_findings_of_accessibility(review: Page) -> None:
    review.keyboard.press("?")
    expect(review.locator("#help")).to_be_visible()
    review.locator(".case").first.click()
    found = [f"{one['id']}: {one['help']}" for one in Axe().run(review).response["violations"]]
    assert found == []
