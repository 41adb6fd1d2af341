"""Tests of how the metadata heads are fitted: masks, calibration, figures, the gate, and one whole small run."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import yaml

from lookalike.attributes import HEADS_FILE, Describer
from lookalike.config import ModelSettings
from lookalike.errors import SetupError
from tests.metadata_samples import MeanColours, small_data

torch = pytest.importorskip("torch", reason="training needs the extra lookalike[train]")
pytest.importorskip("sklearn", reason="training needs the extra lookalike[train]")

from training.metadata.config import load_config  # noqa: E402
from training.metadata.data import IGNORED  # noqa: E402
from training.metadata.gate import fit_gate  # noqa: E402
from training.metadata.heads import Examples, Recipe, best_temperature, train_heads  # noqa: E402
from training.metadata.report import attribute_figures, expected_calibration_error, sure_threshold  # noqa: E402
from training.train_metadata import Training, write_model  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "metadata.yaml"


def separable(seed: int) -> Examples:
    dice = np.random.default_rng(seed)
    numbers = dice.integers(3, size=300)
    matrix = (np.eye(8)[numbers] * 3 + dice.normal(size=(300, 8))).astype(np.float32)
    masked = np.where(dice.random(300) < 0.5, numbers, IGNORED)
    return Examples.of([matrix], {"kind": numbers, "half_known": masked, "unknown": np.full(300, IGNORED)})


RECIPE = Recipe(name="small", views=["plain"], hidden=[16], epochs=20, batch=32, learning_rate=0.01)
COUNTS = {"kind": 3, "half_known": 3, "unknown": 2}


def test_heads_learn_also_from_rows_that_know_only_some_attributes() -> None:
    network, accuracy = train_heads(RECIPE, separable(1), separable(2), COUNTS, seed=3)
    assert accuracy > 0.9
    assert all(np.isfinite(tensor).all() for tensor in network.tensors().values())


@pytest.mark.parametrize(
    "changes", [{"mixup": 0.2}, {"label_smoothing": 0.1}, {"class_weight_power": 0.5}, {"hidden": []}]
)
def test_every_recipe_learns(changes: dict[str, object]) -> None:
    recipe = Recipe.model_validate(RECIPE.model_dump() | changes)
    assert train_heads(recipe, separable(1), separable(2), COUNTS, seed=3)[1] > 0.9


def test_the_same_seed_gives_the_same_heads() -> None:
    first, second = (train_heads(RECIPE, separable(1), separable(2), COUNTS, seed=3)[0].tensors() for _ in "ab")
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_the_temperature_undoes_overconfidence() -> None:
    dice = np.random.default_rng(0)
    logits = dice.normal(size=(20_000, 4)) * 2
    powers = np.exp(logits)
    classes = np.array([dice.choice(4, p=p) for p in powers / powers.sum(1, keepdims=True)])
    assert best_temperature((logits * 2.5).astype(np.float32), classes) == pytest.approx(2.5, abs=0.1)


def test_figures_match_a_table_made_by_hand() -> None:
    scores = np.array([[0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0], [0.3, 0.6, 0.1, 0], [0.1, 0.2, 0.3, 0.4]], np.float32)
    figures = attribute_figures(scores, np.array([0, 1, 1, 0]), np.array([True, True, True, False]))
    assert figures.rows == 4
    assert figures.accuracy == 0.5
    # Label 0: one hit, two guessed, two true: 0.5. Label 1: one hit, one guessed, two true: 2/3.
    assert figures.macro_f1 == pytest.approx((0.5 + 2 / 3) / 2)
    assert figures.top_3 == 0.75
    assert figures.sure == 0.75
    assert figures.accuracy_when_sure == pytest.approx(2 / 3)


def test_the_calibration_error_matches_one_made_by_hand() -> None:
    confidence = np.array([0.9, 0.9, 0.5, 0.5], np.float32)
    right = np.array([True, False, True, False])
    assert expected_calibration_error(confidence, right) == pytest.approx(0.5 * 0.4, abs=1e-6)


def test_the_threshold_is_the_smallest_score_that_gives_the_precision() -> None:
    confidence = np.linspace(1, 0.5, 100, dtype=np.float32)
    right = np.arange(100) < 80  # the 80 most confident are right
    threshold = sure_threshold(confidence, right, precision=0.9, least=0.5)
    assert right[confidence >= threshold].mean() >= 0.9
    assert (confidence >= threshold).sum() == 88


def test_a_precision_that_is_never_reached_makes_nothing_sure() -> None:
    assert sure_threshold(np.full(100, 0.9, np.float32), np.zeros(100, bool), 0.9, 0.5) == 1.0


def test_no_threshold_is_below_the_least_score() -> None:
    assert sure_threshold(np.linspace(1, 0, 100, dtype=np.float32), np.ones(100, bool), 0.9, 0.5) == 0.5


def test_the_gate_tells_known_from_other_and_lets_the_wanted_share_pass() -> None:
    dice = np.random.default_rng(0)
    known, other, check = (dice.normal(shift, 1, (500, 4)).astype(np.float32) for shift in (1, -3, 1))
    gate = fit_gate([known], [other], check, accept=0.98, strength=1.0)

    def passed(part: np.ndarray) -> float:
        return float((1 / (1 + np.exp(-(part @ gate.weight + gate.bias))) >= gate.threshold).mean())

    assert passed(check) == pytest.approx(0.98, abs=0.01)
    assert passed(other) < 0.02


def test_an_attribute_of_one_label_is_named(tmp_path: Path) -> None:
    config = load_config(CONFIG).model_copy(update={"min_count": 45})
    with pytest.raises(SetupError, match="gender: 1 labels have 45 train rows"):
        Training(config, small_data(tmp_path / "data"), MeanColours(), tmp_path / "cache")


def test_the_configuration_names_a_wrong_key(tmp_path: Path) -> None:
    fields = yaml.safe_load(CONFIG.read_text())
    (tmp_path / "metadata.yaml").write_text(yaml.safe_dump(fields | {"sead": 1}))
    with pytest.raises(SetupError, match="sead"):
        load_config(tmp_path / "metadata.yaml")


SMALL_RUN = Recipe(
    name="small",
    views=["plain", "flip"],
    hidden=[16],
    epochs=60,
    batch=16,
    learning_rate=0.02,
)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Namespace:
    """Train on the small data folder and write the model."""
    folder = tmp_path_factory.mktemp("metadata")
    recipe = SMALL_RUN
    config = load_config(CONFIG).model_copy(update={"recipes": [recipe]})
    gate = config.gate.model_copy(update={"strength": 10.0})
    rules = config.product_display_name.model_copy(update={"words": {"articleType": {"Dresses": "Dress"}}})
    config = config.model_copy(update={"gate": gate, "product_display_name": rules})
    training = Training(config, small_data(folder / "data"), MeanColours(), folder / "cache")
    write_model(*training.describer(training.best_heads()[1]), folder / "model")
    return Namespace(training=training, describer=Describer.load(folder / "model", ModelSettings()), folder=folder)


def test_a_whole_run_learns_what_the_pictures_show(whole_run: Namespace) -> None:
    figures = whole_run.training.figures(whole_run.describer, with_test=True)["test"]
    assert {name: f.accuracy for name, f in figures.items()}["articleType"] > 0.95
    assert list(figures) == ["gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "usage"]


def test_a_whole_run_describes_as_the_service_does(whole_run: Namespace) -> None:
    test = whole_run.training.catalogue.split("test")
    red = next(i for i, row in enumerate(test.rows) if row.values["baseColour"] == "Red")
    (description,) = whole_run.describer.describe(test.features[red : red + 1])
    assert description.product_display_name == "Women Red Casual Dress"


def test_a_whole_run_lets_goods_pass_and_other_things_not(whole_run: Namespace) -> None:
    passing = {title: passed for title, (_, passed, _) in whole_run.training.gate_figures(whole_run.describer).items()}
    assert passing["fashion test"] > 0.9
    assert passing["things"] < 0.1


def test_a_whole_run_is_reproduced_to_the_byte(whole_run: Namespace) -> None:
    again = whole_run.folder / "again"
    write_model(*whole_run.training.describer(whole_run.training.best_heads()[1]), again)
    assert (again / HEADS_FILE).read_bytes() == (whole_run.folder / "model" / HEADS_FILE).read_bytes()
