"""Tests of how the metadata heads are fitted: wrong data, masks, calibration, figures, one whole small run."""

import io
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import yaml
from PIL import Image

from lookalike.attributes import HEADS_FILE, Describer
from lookalike.config import ModelSettings
from lookalike.errors import SetupError

torch = pytest.importorskip("torch", reason="training needs the extra lookalike[train]")
pytest.importorskip("sklearn", reason="training needs the extra lookalike[train]")

from lookalike.embedding import Embedded  # noqa: E402
from lookalike.preprocessing import Preprocess  # noqa: E402
from training.metadata_config import load_config  # noqa: E402
from training.metadata_data import (  # noqa: E402
    IGNORED,
    FolderImages,
    Row,
    ZipImages,
    class_numbers,
    label_lists,
    majority_mapping,
    read_rows,
)
from training.metadata_features import CHUNK, ImageSet, extract  # noqa: E402
from training.metadata_gate import fit_gate  # noqa: E402
from training.metadata_heads import Examples, Recipe, best_temperature, train_heads  # noqa: E402
from training.metadata_report import attribute_figures, expected_calibration_error, sure_threshold  # noqa: E402
from training.train_metadata import Training, write_model  # noqa: E402

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "metadata.yaml"
COLOURS = {"Red": (200, 20, 20), "Green": (20, 200, 20), "Blue": (20, 20, 200)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other cost more than they bring on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class MeanColours:
    """A source of features that is small and exact: the mean and the spread of each channel."""

    fingerprint = "mean-colours"
    preprocess = Preprocess(height_px=8, width_px=8, mean=(0, 0, 0), std=(1, 1, 1))

    def __init__(self) -> None:
        self.seen = 0

    def embed(self, pixels: np.ndarray) -> Embedded:
        self.seen += len(pixels)
        flat = pixels.reshape(len(pixels), -1, 3).astype(np.float32) / 255
        features = np.concatenate([flat.mean(1), flat.std(1)], axis=1)
        return Embedded(features, features)


def jpeg(colour: tuple[int, int, int], seed: int, spread: int = 20) -> bytes:
    noise = np.random.default_rng(seed).integers(-spread, spread + 1, (16, 12, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def manifest(folder: Path, *lines: str, header: str = "id,split,gender") -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def rows(*labels: str) -> list[Row]:
    return [Row(i + 2, str(i), "train", {"gender": label}) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1,train,Men", "2,train"], "line 3: another number of cells"),
        (["1,train,Men,x"], "line 2: another number of cells"),
        ([",train,Men"], "line 2: column 'id' is empty"),
        (["1,train,Men", "2,val,Men", "1,train,Men"], "line 4: image '1' is already on line 2"),
        (["1,train,Men", "2,dev,Men"], "line 3: unknown split 'dev'"),
    ],
)
def test_a_wrong_line_of_the_manifest_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        read_rows(manifest(tmp_path, *lines), "id", ["gender"], splits=("train", "val"))


def test_an_unknown_column_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="line 1: no column 'colour'") as caught:
        read_rows(manifest(tmp_path, "1,train,Men"), "id", ["colour"])
    assert caught.value.allowed == ["id", "split", "gender"]


def test_missing_values_are_masked_and_rare_labels_folded(tmp_path: Path) -> None:
    given = read_rows(
        manifest(tmp_path, "1,train,Men", "2,train,NA", "3,train,", "4,train,Men", "5,train,Girls"), "id", ["gender"]
    )
    labels = label_lists(given, ["gender"], min_count=2)
    assert labels == {"gender": ["Men"]}
    assert class_numbers(given, labels)["gender"].tolist() == [0, IGNORED, IGNORED, 0, IGNORED]


def test_labels_are_listed_by_frequency_then_by_name() -> None:
    assert label_lists(rows("b", "a", "c", "c"), ["gender"], 1) == {"gender": ["c", "a", "b"]}


def test_the_mapping_follows_the_majority() -> None:
    pairs = [("Ties", "Ties"), ("Ties", "Gifts"), ("Ties", "Ties"), ("Caps", "Headwear"), ("Caps", "")]
    given = [Row(i, str(i), "train", {"articleType": a, "subCategory": s}) for i, (a, s) in enumerate(pairs)]
    mapping = majority_mapping(given, "articleType", "subCategory", ["Ties", "Caps"])
    assert mapping == {"Ties": "Ties", "Caps": "Headwear"}


def test_features_are_computed_once_and_resumed(tmp_path: Path) -> None:
    count = CHUNK + 5
    for i in range(count):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(COLOURS["Red"], 0))
    names = [f"{i}.jpg" for i in range(count)]
    source, images = MeanColours(), FolderImages(tmp_path)
    extract(ImageSet("all", images, names[:CHUNK]), source, tmp_path / "cache")
    whole = extract(ImageSet("all", images, names), source, tmp_path / "cache")
    assert source.seen == count
    assert whole.matrix.shape == (count, 6)


def test_a_missing_and_a_broken_image_are_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("1.jpg", jpeg(COLOURS["Red"], 0))
        archive.writestr("2.jpg", b"no image")
    images = ImageSet("all", ZipImages(tmp_path / "images.zip"), ["1", "2", "3"])
    for _ in ("computed", "from the cache"):
        features = extract(images, MeanColours(), tmp_path / "cache")
        assert set(features.bad) == {"2", "3"}
        assert np.isfinite(features.matrix).all(axis=1).tolist() == [True, False, False]


def test_a_mirrored_view_is_another_view_and_a_jittered_one_is_the_same_each_time(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg(COLOURS["Red"], 0, spread=90))
    views = [
        extract(ImageSet("one", FolderImages(tmp_path), ["1.jpg"], view), MeanColours(), tmp_path / cache).matrix
        for view, cache in (("plain", "a"), ("jitter", "a"), ("jitter", "b"))
    ]
    assert not np.allclose(views[0], views[1], atol=1e-3)
    assert np.array_equal(views[1], views[2])


def test_an_archive_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"no zip")
    with pytest.raises(SetupError, match=r"images\.zip"):
        ZipImages(tmp_path / "images.zip")


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


def small_data(folder: Path) -> Path:
    """Write a data folder of three kinds of goods, one a colour, and of grey pictures of other things."""
    lines = ["id,split,gender,masterCategory,subCategory,articleType,baseColour,season,usage"]
    photos, others = ["image,sender_id,masterCategory,subCategory,articleType"], ["file,split,set,class_id"]
    (folder / "metadata").mkdir(parents=True)
    (folder / "retrieval").mkdir()
    kinds = {"Red": ("Women", "Dresses"), "Green": ("Men", "Tshirts"), "Blue": ("Men", "Ties")}
    with ZipFile(folder / "metadata/images.zip", "w") as images, ZipFile(folder / "metadata/hires.zip", "w") as hires:
        for i in range(180):
            colour, (gender, article) = list(kinds.items())[i % 3]
            split = ("train", "train", "val", "test")[i // 3 % 4]
            season, usage = ("Summer", "Winter")[i % 3 == 2], ("NA" if i % 2 else ("Casual", "Formal")[i % 3 == 2])
            lines.append(f"{i},{split},{gender},Apparel,{article},{article},{colour},{season},{usage}")
            images.writestr(f"{i}.jpg", b"" if i == 0 else jpeg(COLOURS[colour], i))
            if i < 30:
                hires.writestr(f"{i}.jpg", jpeg(COLOURS[colour], i + 1000))
    with ZipFile(folder / "metadata/userphotos.zip", "w") as images:
        for i in range(20):
            images.writestr(f"u{i}.jpg", jpeg(COLOURS["Red"], i, spread=40))
            photos.append(f"u{i},{i},Apparel,Dresses,Dresses")
    for i in range(40):
        (folder / f"retrieval/{i}.jpg").write_bytes(jpeg((128, 128, 128), i))
        others.append(f"{i}.jpg,{('train', 'test')[i % 2]},things,thing{i % 4}")
    (folder / "metadata/manifest.csv").write_text("\n".join(lines))
    (folder / "metadata/userphotos.csv").write_text("\n".join(photos))
    (folder / "retrieval/manifest.csv").write_text("\n".join(others))
    return folder


SMALL_RUN = Recipe(
    name="small",
    views=["plain", "flip"],
    hires_copies=1,
    user_photo_copies=1,
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
