"""Tests of the reports on the metadata heads: the floor for colours, the confusion plots, the comparison of recipes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.attributes import Describer
from lookalike.config import ModelSettings
from lookalike.errors import SetupError
from lookalike.review.journal import Decision
from lookalike.review.table_source import TableSource
from tests.metadata_samples import MeanColours, small_data

torch = pytest.importorskip("torch", reason="training needs the extra lookalike[train]")
pytest.importorskip("sklearn", reason="training needs the extra lookalike[train]")
pytest.importorskip("matplotlib", reason="training needs the extra lookalike[train]")

from training.metadata import cases, colour_baseline, compare, confusion  # noqa: E402
from training.metadata.config import TrainingConfig, load_config  # noqa: E402
from training.metadata.data import ZipImages, random_part, read_rows  # noqa: E402
from training.metadata.heads import Recipe  # noqa: E402
from training.metadata.sets import Labelled, readable  # noqa: E402
from training.train_metadata import Training, write_model  # noqa: E402

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "metadata.yaml"
RECIPE = Recipe(name="small", views=["plain", "flip"], hidden=[16], epochs=60, batch=16, learning_rate=0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reports")
    small_data(root / "data")
    return root


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    config = load_config(CONFIG)
    rules = config.product_display_name.model_copy(update={"words": {}})
    return config.model_copy(update={"recipes": [RECIPE], "product_display_name": rules})


@pytest.fixture(scope="module")
def training(folder: Path, config: TrainingConfig) -> Training:
    torch.set_num_threads(1)
    return Training(config, folder / "data", MeanColours(), folder / "cache")


def guesses(labels: str, guessed: str) -> confusion.Guesses:
    confidence = np.linspace(0.5, 0.9, len(labels), dtype=np.float32)
    return confusion.Guesses("letter", np.array(list(labels)), np.array(list(guessed)), confidence)


# The floor for colours


def test_lab_of_known_colours_is_that_of_the_standard() -> None:
    found = colour_baseline.lab(np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]], float))
    expected = [[0, 0, 0], [100, 0, 0], [53.2, 80.1, 67.2], [32.3, 79.2, -107.9]]
    assert found == pytest.approx(np.array(expected), abs=0.1)


def test_each_colour_is_shared_out_whole_among_the_bins() -> None:
    shares = colour_baseline.soft_bins().sum(axis=1)
    assert shares == pytest.approx(np.ones(colour_baseline.LEVELS**3), abs=1e-5)


def test_a_cell_number_leads_back_to_its_levels() -> None:
    pixels = np.array([[[255, 0, 128], [8, 16, 7]]], np.uint8)
    levels = colour_baseline.cell_levels()[colour_baseline.cell_numbers(pixels)]
    assert levels.tolist() == [[31, 0, 16], [1, 2, 0]]


def test_without_weight_the_white_ground_does_not_count(folder: Path) -> None:
    manifest = folder / "data/metadata/manifest.csv"
    row = next(row for row in read_rows(manifest, "id", ["baseColour"]) if row.values["baseColour"] == "Green")
    counted = colour_baseline.count_colours(manifest, ZipImages(folder / "data/metadata/images.zip"), [row])
    framed = counted.cells.copy().tolil()
    framed[0, colour_baseline.LEVELS**3 - 1] = 1000
    alone, weightless, heavy = (
        colour_baseline.histograms(cells.tocsr(), weight).toarray()
        for cells, weight in ((counted.cells, 0.0), (framed, 0.0), (framed, 1.0))
    )
    assert weightless == pytest.approx(alone)
    assert np.abs(heavy - alone).max() > 0.1


def test_a_picture_of_nothing_but_ground_has_an_empty_histogram() -> None:
    cells = colour_baseline.csr_array(([5.0], [colour_baseline.LEVELS**3 - 1], [0, 1]), (1, colour_baseline.LEVELS**3))
    assert not colour_baseline.histograms(cells, 0.0).toarray().any()


def test_the_colour_baseline_learns_colours_and_writes_its_figures(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(CONFIG), "--data", str(folder / "data"), "--json", str(tmp_path / "figures.json")]
    assert colour_baseline.main([*arguments, "--strengths", "10", "100"]) == 0
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["figures"]["test"]["accuracy"] == 1
    assert written["figures"]["test"]["rows"] == 45
    assert "C 10," in written["choice"]
    assert "baseColour by its colours alone" in capsys.readouterr().out


def test_the_colour_baseline_names_missing_data_on_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert colour_baseline.main(["--config", str(CONFIG), "--data", str(tmp_path)]) == 1
    assert "images.zip" in caplog.messages[-1]


def test_pictures_that_cannot_be_read_at_all_are_an_error(folder: Path) -> None:
    manifest = folder / "data/metadata/manifest.csv"
    broken = [row for row in read_rows(manifest, "id", ["baseColour"]) if row.image == "0"]
    with pytest.raises(SetupError, match="none of 1 images"):
        colour_baseline.count_colours(manifest, ZipImages(folder / "data/metadata/images.zip"), broken)


# The confusion plots


def test_frequent_labels_come_first_and_ties_by_name() -> None:
    assert guesses("bbacaacd", "bbacaacd").frequent_labels(3) == ["a", "b", "c"]


def test_the_confusion_matrix_matches_one_made_by_hand() -> None:
    given = guesses("aaabbc", "aabbxa")
    assert confusion.confusion_matrix(given, ["a", "b"]).tolist() == [[2, 1, 0], [0, 1, 1]]


def test_the_most_frequent_confusions_match_a_table_made_by_hand() -> None:
    given = guesses("aaaabbcc", "abbbbacc")
    assert confusion.most_confused(given) == [("a", "b", 3, 0.75), ("b", "a", 1, 0.5)]
    assert confusion.most_confused(given, 1) == [("a", "b", 3, 0.75)]


def test_a_bin_of_the_reliability_diagram_holds_its_own_rows() -> None:
    given = confusion.Guesses("letter", np.array(["a", "a", "a"]), np.array(["a", "b", "a"]), np.float32([0.9, 0.9, 1]))
    (first, second) = confusion.reliability(given)
    assert first == (pytest.approx(0.9), 0.5, 2)
    assert second == (1, 1, 1)


def test_the_report_of_a_model_has_plots_of_each_attribute_that_the_rows_know(
    training: Training, tmp_path: Path
) -> None:
    write_model(*training.describer(training.best_heads()[1]), tmp_path / "model")
    describer, test = Describer.load(tmp_path / "model", ModelSettings()), readable(training.catalogue.split("test"))
    known = ("articleType", "usage")
    rows = [replace(row, values={name: row.values[name] for name in known}) for row in test.rows]
    confusion.write_report(describer, Labelled(rows, test.features), tmp_path / "report", "test")
    plots = {f"{kind}-{name}.png" for kind in ("confusion", "reliability") for name in known}
    assert {file.name for file in (tmp_path / "report").iterdir()} == {*plots, "confused.md"}
    with Image.open(tmp_path / "report" / "confusion-articleType.png") as plot:
        assert plot.width > 300
    assert "## usage: 100.0 % of 15 rows are right" in (tmp_path / "report/confused.md").read_text()


def test_the_report_needs_a_folder_that_it_can_write(training: Training, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(SetupError, match="taken"):
        confusion.prepare_folder(tmp_path / "taken")


def test_a_report_without_a_model_is_an_error_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert confusion.main(["--model", str(tmp_path), "--config", str(CONFIG)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


# Cases for the review


def test_a_wrong_label_is_the_hardest_case_and_training_reads_what_was_decided(
    training: Training, folder: Path, tmp_path: Path
) -> None:
    write_model(*training.describer(training.best_heads()[1]), tmp_path / "model")
    describer, val = Describer.load(tmp_path / "model", ModelSettings()), readable(training.catalogue.split("val"))
    manifest = tmp_path / "manifest.csv"
    lines = (folder / "data/metadata/manifest.csv").read_text().splitlines()
    (wrong,) = [at for at, line in enumerate(lines) if line.startswith(f"{val.rows[0].image},")]
    right = lines[wrong]
    lines[wrong] = right.replace(",Dresses,Dresses,", ",Dresses,Ties,")
    assert lines[wrong] != right
    manifest.write_text("\n".join(lines) + "\n")
    guesses = cases.guessed(describer, val, "articleType")
    table = tmp_path / "articleType.csv"
    table.write_text(cases.with_guesses(manifest, guesses))
    cases.unpack(ZipImages(folder / "data/metadata/images.zip"), list(guesses), tmp_path / "images")
    source = TableSource(table, tmp_path / "images", "id", "articleType", ".jpg", guessed=True)
    assert len(source.cases) == len(val.rows) < len(lines) - 1
    first = source.cases[0]
    assert (first.name, first.label, first.guess, first.why) == (val.rows[0].image, "Ties", "Dresses", "disagrees")
    assert first.path.read_bytes().startswith(b"\xff\xd8")
    source.export({first.name: Decision(action="label", label="Dresses")}, {first.name})
    original = read_rows(folder / "data/metadata/manifest.csv", "id", ["articleType", "gender"])
    assert read_rows(table, "id", ["articleType", "gender"]) == original


def test_an_attribute_without_a_head_is_named(training: Training, tmp_path: Path) -> None:
    write_model(*training.describer(training.best_heads()[1]), tmp_path / "model")
    describer, val = Describer.load(tmp_path / "model", ModelSettings()), readable(training.catalogue.split("val"))
    with pytest.raises(SetupError, match="no head for 'sleeve'"):
        cases.guessed(describer, val, "sleeve")


def test_cases_without_a_model_are_an_error_on_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cases.main(["articleType", "--model", str(tmp_path), "--config", str(CONFIG)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


# The comparison of recipes


def test_a_recipe_is_chosen_by_name_else_the_last(config: TrainingConfig) -> None:
    recipes = [RECIPE, RECIPE.model_copy(update={"name": "other"})]
    config = config.model_copy(update={"recipes": recipes})
    assert compare.chosen_recipe(config, "small") is recipes[0]
    assert compare.chosen_recipe(config, None) is recipes[1]
    with pytest.raises(SetupError, match="no recipe 'none'"):
        compare.chosen_recipe(config, "none")


def test_variants_change_one_thing_each() -> None:
    variants = {variant.title: variant for variant in compare.variants_of(RECIPE)}
    assert list(variants) == ["small, one network", "small, separate networks", "class_weight_power 0.25", "linear"]
    assert variants["small, separate networks"].separate
    assert variants["class_weight_power 0.25"].recipe.class_weight_power == 0.25
    assert variants["linear"].recipe == RECIPE.model_copy(update={"hidden": []})


def test_a_linear_recipe_is_compared_with_a_hidden_layer() -> None:
    *_, last = compare.variants_of(RECIPE.model_copy(update={"hidden": []}))
    assert last.recipe.hidden == [compare.HIDDEN]


def test_every_variant_is_measured_on_both_splits(training: Training) -> None:
    results = list(compare.Comparison(training, RECIPE).results())
    one, separate, *_, linear = results
    heads = ["gender", "articleType", "baseColour", "season", "usage"]
    assert all(list(result.scores[split]) == heads for result in results for split in ("val", "test"))
    assert all(result.scores["test"]["articleType"].accuracy > 0.95 for result in results)
    # Six features; 2 + 3 + 3 + 2 + 2 labels. One hidden layer of 16 for all, or one for each of the five heads.
    assert one.parameters == (6 + 1) * 16 + (16 + 1) * 12
    assert separate.parameters == 5 * (6 + 1) * 16 + (16 + 1) * 12
    assert linear.parameters == (6 + 1) * 12
    assert all(result.fit_ms > 0 for result in results)
    table = compare.comparison_table(results, "test")
    assert [str(column.header) for column in table.columns] == [
        "variant", *heads, "mean", "parameters", "fit, ms"
    ]  # fmt: skip
    assert table.row_count == len(results)


def test_a_comparison_may_learn_from_a_share_of_the_pictures(training: Training) -> None:
    whole = training.examples(RECIPE)
    part = compare.part_of(whole, 0.5, seed=1)
    assert len(part) == round(0.5 * len(whole))
    assert all(len(classes) == len(part) for classes in part.classes.values())
    kept = random_part(len(whole), 0.5, seed=1)
    assert torch.equal(part.views, whole.views[:, kept])
    assert part.classes["gender"].tolist() == whole.classes["gender"][kept].tolist()
    with pytest.raises(SetupError, match="above 0 and at most 1"):
        compare.part_of(whole, 1.5, seed=1)


def test_a_label_without_a_head_counts_as_wrong(training: Training) -> None:
    network = compare.train_heads(
        RECIPE, training.examples(RECIPE), training.plain_examples(training.val), {"articleType": 3}, seed=1
    )[0]
    rows = training.val.rows
    examples = training.plain_examples(training.val)
    examples.classes["articleType"][:] = -100
    assert compare.head_scores(network, examples, rows)["articleType"].accuracy == 0


def test_a_comparison_without_a_network_is_an_error_on_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert compare.main(["--network", str(tmp_path / "none.safetensors"), "--config", str(CONFIG)]) == 1
    assert "none.safetensors" in caplog.messages[-1]
