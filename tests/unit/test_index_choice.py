"""The kind of index that serves a catalogue: the rule, and what edits make of it."""

import re
from pathlib import Path

import pytest

from lookalike.config import IndexSettings
from lookalike.index import choice, draft
from lookalike.index.choice import choose_index_kind
from lookalike.index.edits import IndexEditor
from lookalike.index.faiss_index import open_index
from lookalike.index.manifest import Kind, Manifest
from tests.colour_embedder import ColourEmbedder, catalogue_of


@pytest.mark.parametrize(
    ("count", "dim", "kind"),
    [
        (0, 512, "flat"),
        (27_000, 512, "flat"),
        (29_000, 512, "ivf"),
        (11_000, 1280, "flat"),
        (12_000, 1280, "ivf"),
        (10_000_000, 64, "ivf"),
    ],
)
def test_exact_search_serves_while_it_takes_no_longer_than_its_budget(count: int, dim: int, kind: Kind) -> None:
    assert choose_index_kind(count, dim) == kind


def test_a_catalogue_near_the_limit_does_not_change_its_kind_at_every_edit() -> None:
    limit = int(choice.EXACT_BUDGET_MS * 1e6 / choice.EXACT_NS_PER_NUMBER / 512)
    assert [choose_index_kind(limit + more, 512, "flat") for more in (0, 1)] == ["flat", "ivf"]
    assert [choose_index_kind(count, 512, "ivf") for count in (limit, limit // 2 + 1)] == ["ivf", "ivf"]
    assert choose_index_kind(limit // 2 - 1, 512, "ivf") == "flat"


def test_the_documented_table_is_the_rule() -> None:
    text = (Path(__file__).parents[2] / "docs/index.md").read_text().replace(",", "")
    table = [[int(cell) for cell in row] for row in re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)]
    assert len(table) == 4
    for dim, most, back in table:
        assert [choose_index_kind(count, dim) for count in (most, most + 1)] == ["flat", "ivf"]
        assert [choose_index_kind(count, dim, "ivf") for count in (back, back + 1)] == ["flat", "ivf"]


@pytest.fixture
def limit_of_20(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `auto` leave exact search above 20 items, and come back to it at 10."""

    def choose(count: int, dim: int, before: Kind = "flat") -> Kind:
        return "flat" if count <= (10 if before == "ivf" else 20) else "ivf"

    monkeypatch.setattr(draft, "choose_index_kind", choose)


def edited(tmp_path: Path, count: int, kind: str) -> IndexEditor:
    editor = IndexEditor(tmp_path / "index", IndexSettings.model_validate({"kind": kind}))
    editor.build(catalogue_of(tmp_path, count), ColourEmbedder())
    return editor


def published(tmp_path: Path) -> Manifest:
    return open_index(tmp_path / "index").manifest


@pytest.mark.usefixtures("limit_of_20")
def test_an_index_of_the_automatic_kind_follows_its_count(tmp_path: Path) -> None:
    editor = edited(tmp_path, 15, "auto")
    assert (published(tmp_path).kind, "ivf.faiss" in published(tmp_path).files) == ("flat", False)
    editor.add(catalogue_of(tmp_path, 25), ColourEmbedder())
    assert (published(tmp_path).kind, "ivf.faiss" in published(tmp_path).files) == ("ivf", True)
    editor.remove([f"item-{number}" for number in range(10)])
    assert published(tmp_path).kind == "ivf"  # 15 again, and not yet worth a change
    editor.remove([f"item-{number}" for number in range(10, 16)])
    assert (published(tmp_path).kind, published(tmp_path).count) == ("flat", 9)
    assert published(tmp_path).build.kind_by_count


@pytest.mark.usefixtures("limit_of_20")
@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_a_kind_that_was_asked_for_stays(tmp_path: Path, kind: str) -> None:
    editor = edited(tmp_path, 15, kind)
    IndexEditor(tmp_path / "index", IndexSettings()).add(catalogue_of(tmp_path, 25), ColourEmbedder())
    assert published(tmp_path).kind == kind
    editor.remove([f"item-{number}" for number in range(20)])
    assert (published(tmp_path).kind, published(tmp_path).count) == (kind, 5)
