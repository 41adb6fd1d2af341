"""The chain's evaluation: rankings of several crops merge, figures follow hand-written tables, sets hang together."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.catalogue import Catalogue, Item
from lookalike.errors import SetupError
from lookalike.review.table_source import TableSource
from lookalike.schemas import Hit
from training.chain.figures import mean_average_precision, wilson_interval
from training.chain.report import SetResult, results_table, write_report
from training.chain.search import AUTOCROP, WHOLE, Answer, Ranking, merged, relevance
from training.chain.sets import PAIRS_FILE, SETS, ChainQuery, ChainSet, read_sets
from training.picture_grid import Cell, draw_grid

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("LOOKALIKE_DATA", ROOT / "../shared/data"))


def hits(**similarities: float) -> list[Hit]:
    return [Hit(item_id=name, similarity=value) for name, value in similarities.items()]


def test_several_crops_keep_the_best_similarity_of_each_item():
    ranking = merged([hits(a=0.5, b=0.4), hits(b=0.9, c=0.1)])
    assert ranking == Ranking(["b", "a", "c"], [0.9, 0.5, 0.1])


def test_average_precision_is_that_of_a_hand_written_table():
    relevant = np.array([[True, False, True, False], [False, False, False, True], [False] * 4])
    assert mean_average_precision(relevant) == pytest.approx(((1 + 2 / 3) / 2 + 1 / 4) / 2)
    assert mean_average_precision(np.zeros((2, 3), np.bool_)) == 0


def test_the_interval_of_a_share_is_wilsons():
    assert wilson_interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    low, high = wilson_interval(1.0, 28)
    assert (round(low, 3), high) == (0.879, 1.0)


def test_short_rankings_are_padded_with_what_is_not_relevant():
    query = ChainQuery(Path("q.png"), frozenset({"a"}))
    rankings = (Ranking(["b", "a"], [0.9, 0.8]), Ranking(["a"], [0.7]))
    answers = [Answer(query, {WHOLE: ranking}, [(0, 0, 1, 1)], None) for ranking in rankings]
    assert relevance(answers, WHOLE).tolist() == [[False, True], [True, False]]


def test_a_sample_is_the_same_for_the_same_seed_and_keeps_the_catalogue():
    queries = [ChainQuery(Path(f"{i}.png"), frozenset()) for i in range(20)]
    whole = ChainSet("x", "x", Catalogue(Path(), []), queries)
    assert whole.sampled(5, seed=1) == whole.sampled(5, seed=1)
    assert whole.sampled(5, seed=1) != whole.sampled(5, seed=2)
    assert whole.sampled(None, seed=1) is whole


def test_the_report_shows_figures_and_the_worst_queries(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    items = [Item(name, tmp_path / "a.png") for name in ("a", "b")]
    query = ChainQuery(tmp_path / "a.png", frozenset({"a"}), (5, 5, 20, 20))
    rankings = {WHOLE: Ranking(["a", "b"], [0.9, 0.2]), AUTOCROP: Ranking(["b", "a"], [0.6, 0.5])}
    chain_set = ChainSet("toys", "toys on a table", Catalogue(tmp_path, items), [query])
    result = SetResult.of(chain_set, [Answer(query, rankings, [(0, 0, 20, 20)], 0.56)])
    report = write_report([result], {"detector": "d"}, tmp_path / "out").read_text()
    assert "| toys | whole image | 1 | 1.000 |" in results_table([result])
    assert "| toys | autocrop | 1 | 0.000 |" in report
    assert "| toys | 0.560 | 0.000 |" in report
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"report.md", "report.json", "recall.png", "similarities.png", "worst-toys.png", "worst-toys.csv"}
    (case,) = TableSource(tmp_path / "out/worst-toys.csv", Path(), "file", "relevant").cases
    assert (case.path, case.label, case.guess, case.score) == (tmp_path / "a.png", "a", "b", 0.6)


def test_a_grid_has_room_for_every_cell_and_an_unreadable_picture_stays_blank():
    cells = [Cell(Image.new("RGB", (10, 90), "red"), "one"), Cell(None, "two"), Cell(None, "three")]
    sheet = draw_grid(cells, columns=2, edge_px=50)
    assert sheet.getcolors(maxcolors=100_000) is not None
    assert sheet.size[0] > 100
    assert sheet.size[1] > 2 * 50


def test_an_unknown_set_or_missing_data_is_named(tmp_path):
    with pytest.raises(SetupError, match="no set postcards"):
        read_sets(tmp_path, ["postcards"], ROOT / PAIRS_FILE)
    with pytest.raises(SetupError, match=r"cannot read .*manifest\.csv"):
        read_sets(tmp_path, ["walls"], ROOT / PAIRS_FILE)


def test_no_query_comes_twice_among_the_pairs():
    with (ROOT / PAIRS_FILE).open(newline="") as file:
        queries = [row["query"] for row in csv.DictReader(file)]
    assert len(queries) == len(set(queries))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no evaluation data in {DATA}: set LOOKALIKE_DATA")
@pytest.mark.parametrize("name", SETS)
def test_every_query_has_its_photo_and_a_right_item_in_the_catalogue(name):
    (chain_set,) = read_sets(DATA, [name], ROOT / PAIRS_FILE)
    items = {item.item_id for item in chain_set.catalogue.items}
    assert len(items) == len(chain_set.catalogue.items)
    assert all(item.path.is_file() for item in chain_set.catalogue.items)
    for query in chain_set.queries:
        assert query.path.is_file()
        assert query.relevant
        assert query.relevant <= items
