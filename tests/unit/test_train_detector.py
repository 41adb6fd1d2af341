"""Tests of how the subject detector is trained: data that is wrong, boxes that move along, losses, one small run."""

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.errors import SetupError

torch = pytest.importorskip("torch", reason="training needs the extra lookalike[train]")
pytest.importorskip("sklearn", reason="training needs the extra lookalike[train]")
pytest.importorskip("tensorboard", reason="training needs the extra lookalike[train]")

from tests.unit.tiny_autocrop import tiny_config, write_manifest, write_tiny_autocrop  # noqa: E402
from training.detector.augment import augment  # noqa: E402
from training.detector.compose import Kit, Scene, perspective, render  # noqa: E402
from training.detector.config import LossSettings, load_config  # noqa: E402
from training.detector.data import Views, carve, read_photos  # noqa: E402
from training.detector.loss import Predictions, Truth, assign, detection_loss, distribution_loss  # noqa: E402
from training.detector.network import predict, subject_network  # noqa: E402
from training.detector.score import BestBoxes, fallback_threshold  # noqa: E402
from training.picodet import PicoDet  # noqa: E402
from training.train_detector import BEST, CHECKPOINT, Training, main, rate_factor  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


@pytest.fixture
def tiny_set(tmp_path: Path) -> Path:
    return write_tiny_autocrop(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "detector.yaml",
        "detector_fasterrcnn.yaml",
        "detector_fasterrcnn_short.yaml",
        "detector_short.yaml",
        "detector_taught.yaml",
    ],
)
def test_every_configuration_loads(name: str) -> None:
    assert load_config(CONFIGS / name).optimiser.epochs > 0


def test_a_wrong_key_is_named(tmp_path: Path) -> None:
    wrong = (CONFIGS / "detector.yaml").read_text().replace("views_per_epoch", "views_an_epoch")
    (tmp_path / "wrong.yaml").write_text(wrong)
    with pytest.raises(SetupError, match="views_an_epoch"):
        load_config(tmp_path / "wrong.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file": "gone.png"}, "No such file"),
        ({"x2": 500.0}, "outside of the image of 128x96"),
        ({"x2": 0.0}, "empty or outside"),
        ({"all_boxes": "[["}, "delimiter|Expecting"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line_or_skipped(tiny_set: Path, change: dict[str, object], said: str) -> None:
    folder = tiny_set / "autocrop"
    rows: list[dict[str, object]] = [*csv.DictReader((folder / "manifest.csv").read_text().splitlines())]
    rows[2] |= change
    write_manifest(folder, rows)
    with pytest.raises(SetupError, match=rf"manifest\.csv:4: .*({said})"):
        read_photos(folder, "train", "stop")
    assert len(read_photos(folder, "train", "skip")) == len(rows) - 1


def test_an_unreadable_image_is_named(tiny_set: Path) -> None:
    (tiny_set / "autocrop" / "one3.png").write_bytes(b"no image")
    with pytest.raises(SetupError, match=r"manifest\.csv:5: one3\.png"):
        read_photos(tiny_set / "autocrop", "train", "stop")


def test_validation_is_carved_from_train_by_source_without_the_application_sources(tiny_set: Path) -> None:
    config = tiny_config()
    train, val = carve(read_photos(tiny_set / "autocrop", "train", "stop"), config.data, config.seed)
    assert [sum(p.source == name for p in val) for name in ("one", "two", "kept-out")] == [2, 2, 0]
    assert not {p.path for p in train} & {p.path for p in val}
    assert all(p.source != "kept-out" for p in train)


def test_every_photo_is_in_one_fold_and_a_larger_share_contains_a_smaller_one(tiny_set: Path) -> None:
    config = tiny_config()
    photos = read_photos(tiny_set / "autocrop", "train", "stop")
    folds = [carve(photos, config.data.model_copy(update={"fold": fold}), 1)[1] for fold in range(4)]
    assert len({photo.path for fold in folds for photo in fold}) == 16
    small, large = (carve(photos, config.data.model_copy(update={"share": s}), 1)[0] for s in (0.3, 0.7))
    assert {p.path for p in small} < {p.path for p in large}


def test_an_augmented_box_still_frames_the_subject(tiny_set: Path) -> None:
    config = tiny_config()
    photos = [p for p in read_photos(tiny_set / "autocrop", "train", "stop") if p.source == "one"]
    for number in range(40):
        photo = photos[number % len(photos)]
        image = Image.open(photo.path).convert("RGB")
        generator = np.random.default_rng(number)
        settings = config.augment.model_copy(update={"colour": 0.0, "grey": 0.0, "blur": 0.0, "jpeg": 0.0})
        sample = augment(image, [photo.subject], [], True, settings, config.preprocess, generator)
        pixels = sample.pixels.astype(int)
        red = (pixels[..., 0] > 180) & (pixels[..., 1] < 60)
        rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(sample.subjects[0] - found).max() <= 3.5, number


def test_a_view_depends_on_seed_epoch_and_number_alone(tiny_set: Path) -> None:
    config = tiny_config()
    photos, _ = carve(read_photos(tiny_set / "autocrop", "train", "stop"), config.data, config.seed)

    def views() -> Views:
        return Views(photos, None, config.data, config.augment, config.preprocess, config.seed)

    first, second = views(), views()
    first[0], first[3]
    second.first = 2
    assert np.array_equal(first[5].pixels, second[3].pixels)
    second.epoch = 1
    assert not np.array_equal(first[5].pixels, second[3].pixels)


def test_a_rendered_box_frames_what_was_pasted() -> None:
    cutout = Image.new("RGBA", (60, 40), (255, 0, 0, 255))
    kit = Kit([cutout], [Image.new("RGB", (50, 70), (255, 0, 0))], [Image.new("RGB", (200, 200), (0, 0, 255))], [])
    for number in range(20):
        generator = np.random.default_rng([5, number])
        image, box = render(kit, Scene.SCATTER, generator)
        x1, y1, x2, y2 = map(int, box)
        assert 0 <= x1 < x2 <= image.width
        assert 0 <= y1 < y2 <= image.height
        centre = np.asarray(image)[(y1 + y2) // 2 - 3 : (y1 + y2) // 2 + 3, (x1 + x2) // 2 - 3 : (x1 + x2) // 2 + 3]
        assert (centre[..., 2] < 255).any()


def test_a_perspective_takes_each_corner_to_its_image() -> None:
    corners = np.array([[0, 0], [10, 0], [10, 20], [0, 20]], float)
    images = np.array([[1, 2], [9, 1], [8, 18], [2, 19]], float)
    a, b, c, d, e, f, g, h = perspective(corners, images)
    x, y = corners.T
    w = g * x + h * y + 1
    assert np.allclose(np.stack([(a * x + b * y + c) / w, (d * x + e * y + f) / w], axis=1), images)


def perfect(subject: list[float]) -> tuple[Predictions, Truth]:
    """Predictions of three points that frame `subject`, the last point outside of it."""
    centres = torch.tensor([[20.0, 20.0], [28.0, 28.0], [60.0, 60.0]])
    boxes = torch.tensor([subject] * 3)[None]
    logits = torch.zeros(1, 3, 4, 8)
    predictions = Predictions(torch.tensor([[0.9, 0.4, 0.9]]), logits, boxes, centres, torch.full((3,), 8.0))
    return predictions, Truth(torch.tensor([[subject]]), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, 4))


def test_points_inside_the_subject_answer_for_it_and_the_best_should_score_its_iou() -> None:
    found = assign(*perfect([12.0, 12.0, 40.0, 40.0]), LossSettings())
    assert found.positive.tolist() == [[True, True, False]]
    assert found.score[0, 0] == pytest.approx(1.0)
    assert found.score[0, 1] == pytest.approx(0.4 / 0.9)
    assert found.score[0, 2] == 0


def test_background_inside_an_ignored_box_costs_nothing() -> None:
    predictions, truth = perfect([12.0, 12.0, 40.0, 40.0])
    counted = detection_loss(predictions, truth, LossSettings())
    forgiven = detection_loss(
        predictions, truth._replace(ignored=torch.tensor([[[50.0, 50.0, 70.0, 70.0]]])), LossSettings()
    )
    assert forgiven["score"] < counted["score"]
    assert forgiven["box"] == counted["box"] == pytest.approx(0.0, abs=1e-5)


def test_the_distribution_loss_is_least_where_the_mean_is_the_distance() -> None:
    logits = torch.full((1, 4, 8), -20.0)
    logits[..., 2] = logits[..., 3] = 0.0
    losses = [float(distribution_loss(logits, torch.full((1, 4), d))) for d in (2.5, 3.0, 4.0)]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-4)
    assert losses[0] <= losses[1] + 1e-4 < losses[2]


def test_one_class_starts_with_the_boxes_and_nearly_the_best_score_of_eighty() -> None:
    torch.manual_seed(0)
    coco = PicoDet().eval()
    images = torch.randn(4, 3, 64, 64)
    network = subject_network(coco, [images]).eval()
    with torch.no_grad():
        found, (boxes, scores) = predict(network, images), coco(images)
    assert torch.allclose(found.boxes, boxes, atol=1e-3)
    best = scores.amax(dim=1)
    assert float((found.scores - best).abs().mean()) < 0.02


def test_the_rate_warms_up_and_falls_to_the_last() -> None:
    rates = [rate_factor(step, 100, 0.1, 0.05) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(0.05)
    assert all(a >= b for a, b in pairwise(rates[9:]))


def test_the_whole_image_serves_where_scores_are_low() -> None:
    found = BestBoxes(
        np.array([0.9, 0.8, 0.2, 0.1]),
        np.array([0.9, 0.8, 0.1, 0.0]),
        np.array([0.2, 0.2, 0.6, 0.7]),
        np.array(["a"] * 4),
    )
    threshold = fallback_threshold(found)
    assert 0.2 < threshold <= 0.8
    assert found.mean_over_sources(threshold) == pytest.approx((0.9 + 0.8 + 0.6 + 0.7) / 4)


def test_a_killed_run_goes_on_exactly_where_it_was(tiny_set: Path, tmp_path: Path) -> None:
    whole = Training(tiny_config(), tiny_set, tmp_path / "whole", tmp_path)
    whole.run()
    Training(tiny_config(), tiny_set, tmp_path / "killed", tmp_path).run(stop_after_steps=3)
    resumed = Training(tiny_config(), tiny_set, tmp_path / "killed", tmp_path)
    progress = resumed.run()
    assert progress.epoch == 2
    for a, b in zip(whole.learner.network.parameters(), resumed.learner.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert progress.history == whole.progress.history
    assert (tmp_path / "killed" / BEST).stat().st_size < 3_000_000


def test_a_checkpoint_of_other_settings_is_refused(tiny_set: Path, tmp_path: Path) -> None:
    Training(tiny_config(), tiny_set, tmp_path / "run", tmp_path).run(stop_after_steps=1)
    assert (tmp_path / "run" / CHECKPOINT).exists()
    with pytest.raises(SetupError, match="other settings"):
        Training(tiny_config(seed=2), tiny_set, tmp_path / "run", tmp_path).run()


def test_a_missing_manifest_is_one_line_and_status_1(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(tiny_config().model_dump_json())
    assert main(["--config", str(config), "--data", str(tmp_path), "--run", str(tmp_path / "run")]) == 1
    assert "LOOKALIKE_DATA" in caplog.text
