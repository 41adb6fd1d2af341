"""What the documentation points to is there: pages, pictures, Make targets."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TARGETS = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))
LARGEST_PICTURE = 300_000


def names(page: Path) -> set[str]:
    """Return the Make targets that a page tells to run, in backticks or as a line of a code block."""
    return set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", page.read_text(), re.MULTILINE))


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", page.read_text())
    return [path for pair in found for path in pair if path and not path.startswith(("http", "#", "mailto:"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_of_a_page_exists(page: Path) -> None:
    assert names(page) <= TARGETS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert [link for link in links(page) if not (page.parent / link.partition("#")[0]).exists()] == []


def test_the_first_page_names_the_targets_that_a_newcomer_needs() -> None:
    assert {"demo", "serve", "stop", "status", "test", "help"} <= names(ROOT / "README.md")


def test_the_index_of_the_documentation_names_every_page() -> None:
    index = ROOT / "docs/README.md"
    linked = [(index.parent / link.partition("#")[0]).resolve() for link in links(index)]
    missing = [
        page
        for page in PAGES[2:]
        if page != index and not any(page.resolve() == link or link in page.resolve().parents for link in linked)
    ]
    assert missing == []


def test_every_target_that_help_shows_is_phony_and_no_picture_is_large() -> None:
    phony = set(next(line for line in MAKEFILE.splitlines() if line.startswith(".PHONY:")).split()[1:])
    assert set(re.findall(r"^([a-z0-9-]+):.*## ", MAKEFILE, re.MULTILINE)) <= phony
    pictures = list((ROOT / "docs/pictures").glob("*.webp"))
    assert pictures and all(picture.stat().st_size < LARGEST_PICTURE for picture in pictures)
