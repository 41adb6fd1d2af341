"""Tests of what is built on training runs: the search, folds and shares, the other network, the weights measured."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="training needs the extra lookalike[train]")
optuna = pytest.importorskip("optuna", reason="training needs the extra lookalike[train]")
pytest.importorskip("matplotlib", reason="training needs the extra lookalike[train]")

from torchvision.models import mobilenet_v2  # noqa: E402

from lookalike.detection import Detector  # noqa: E402
from lookalike.errors import SetupError  # noqa: E402
from lookalike.model_store import sha256_of  # noqa: E402
from lookalike.schemas import Detection  # noqa: E402
from tests.unit.tiny_autocrop import tiny_config, write_tiny_autocrop  # noqa: E402
from training import evaluate_detector  # noqa: E402
from training.detector.blend import BLENDED, blend, blend_run, smallest_share  # noqa: E402
from training.detector.config import StartWeights, load_config  # noqa: E402
from training.detector.curves import (  # noqa: E402
    draw_learning,
    draw_shares,
    draw_trials,
    fold_table,
    fold_variants,
    share_variants,
    train_variants,
)
from training.detector.data import read_photos  # noqa: E402
from training.detector.fasterrcnn import (  # noqa: E402
    MOBILENET_V2,
    MOBILENET_V3,
    FasterRcnnCandidates,
    faster_rcnn,
)
from training.detector.report import TorchSession, detector_from_weights  # noqa: E402
from training.detector.runtimes import latency_table, measure_runtimes  # noqa: E402
from training.detector.teach import coco_detector, sole_subject, teach, unlabelled_photos  # noqa: E402
from training.fetch_weights import CONVERTERS  # noqa: E402
from training.picodet import PicoDet  # noqa: E402
from training.search_hparams import STUDIES, Range, Search, SearchConfig, load_search, with_settings  # noqa: E402
from training.train_detector import BEST, Training  # noqa: E402
from training.weights import with_weights, write_half  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_autocrop(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def run_dir(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    Training(tiny_config(), data, folder, folder).run()
    return folder


def tiny_search() -> SearchConfig:
    stages = [
        {"name": "wide", "trials": 2, "views_per_epoch": 4, "epochs": 1},
        {"name": "narrow", "trials": 1, "views_per_epoch": 4, "epochs": 1, "around_best": 0.5},
    ]
    stages[0]["space"] = {"optimiser.rate": {"low": 1e-5, "high": 1e-2, "log": True}}
    return SearchConfig.model_validate(
        {"base": "unused.yaml", "stages": stages, "final": {"views_per_epoch": 4, "epochs": 1}}
    )


@pytest.mark.parametrize("name", ["detector_search.yaml", "detector_search_short.yaml"])
def test_the_searches_that_are_shipped_load_and_fit_the_configuration(name: str) -> None:
    config = load_search(CONFIGS / name)
    assert (CONFIGS.parents[1] / config.base).exists()
    for name, space in config.stages[0].space.items():
        value = space.choices[0] if space.choices else space.low
        assert with_settings(tiny_config(), {name: value}) is not None


def test_a_search_for_a_setting_that_there_is_not_is_refused() -> None:
    with pytest.raises(SetupError, match=r"optimiser\.speed"):
        with_settings(tiny_config(), {"optimiser.speed": 1})


def test_a_narrow_range_lies_around_the_best_and_inside_the_wide_one() -> None:
    narrow = Range(low=0.001, high=0.1, log=True).around(0.01, 0.5)
    assert narrow.low == pytest.approx(0.01 / np.sqrt(10))
    assert narrow.high == pytest.approx(0.01 * np.sqrt(10))
    assert Range(low=0, high=1).around(0.95, 0.2).high == 1
    assert Range(choices=[1, 2]).around(2, 0.2).choices == [2]


def test_a_search_ends_in_fixed_settings_and_resumes_from_its_database(data: Path, tmp_path: Path) -> None:
    def search() -> Search:
        return Search(tiny_search(), tiny_config(), data, tmp_path / "search", tmp_path)

    found = search().run()
    written = yaml.safe_load((tmp_path / "search" / "best.yaml").read_text())
    assert written == found.model_dump(mode="json")
    assert (tmp_path / "search" / "final" / BEST).exists()
    assert search().run() == found  # nothing is left to try


def test_a_killed_trial_is_repeated_with_its_settings_and_leaves_no_folder(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    (out / "wide-000").mkdir(parents=True)
    storage = f"sqlite:///{out / STUDIES}"
    killed = optuna.create_study(storage=storage, study_name="wide", direction="maximize").ask()
    rate = killed.suggest_float("optimiser.rate", 1e-5, 1e-2, log=True)  # and never told an end: as a kill leaves it
    Search(tiny_search(), tiny_config(), data, out, tmp_path).run()
    trials = optuna.load_study(study_name="wide", storage=storage).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].params == {"optimiser.rate": rate}
    assert not list(out.glob("wide-*"))


def test_a_later_stage_begins_with_the_best_of_the_one_before(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "search"
    Search(tiny_search(), tiny_config(), data, out, tmp_path).run()
    wide, narrow = (
        optuna.load_study(study_name=name, storage=f"sqlite:///{out / STUDIES}") for name in ("wide", "narrow")
    )
    assert narrow.trials[0].params == wide.best_params
    assert narrow.best_value >= wide.best_value
    draw_trials(out, tmp_path / "trials.png")
    assert (tmp_path / "trials.png").stat().st_size > 1000
    with pytest.raises(SetupError, match="no search"):
        draw_trials(tmp_path, tmp_path / "none.png")


def test_a_trial_that_diverges_is_passed_over_and_a_stage_of_nothing_else_is_an_error(
    data: Path, tmp_path: Path
) -> None:
    config = tiny_search()
    space = {"optimiser.rate": Range(low=1e30, high=1e31)}
    stage = config.stages[0].model_copy(update={"space": space, "views_per_epoch": 16})
    search = Search(config.model_copy(update={"stages": [stage]}), tiny_config(), data, tmp_path / "search", tmp_path)
    with pytest.raises(SetupError, match="every trial of stage wide diverged"):
        search.run()
    study = optuna.load_study(study_name="wide", storage=f"sqlite:///{tmp_path / 'search' / STUDIES}")
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "PRUNED"]


def test_folds_and_shares_train_apart_and_are_drawn(data: Path, tmp_path: Path) -> None:
    short = with_settings(tiny_config(), {"data.views_per_epoch": 4, "optimiser.epochs": 1})
    folds = train_variants(fold_variants(short, 2), data, tmp_path / "folds", tmp_path)
    assert sorted(folds) == ["fold-0", "fold-1"]
    assert "| val_iou |" in fold_table(folds)
    shares = train_variants(share_variants(short, [0.5, 1.0]), data, tmp_path / "shares", tmp_path)
    draw_shares(shares, tmp_path / "shares.png")
    assert (tmp_path / "shares.png").stat().st_size > 1000


def test_a_run_is_drawn_and_no_run_is_an_error(run_dir: Path, tmp_path: Path) -> None:
    draw_learning(run_dir, tmp_path / "learning.png")
    assert (tmp_path / "learning.png").stat().st_size > 1000
    with pytest.raises(SetupError, match="no run"):
        draw_learning(tmp_path, tmp_path / "none.png")


@pytest.mark.parametrize("network", [MOBILENET_V3, MOBILENET_V2])
def test_faster_rcnn_trains_a_step_and_its_weights_are_measured(network: str, data: Path, tmp_path: Path) -> None:
    changes = {"data.views_per_epoch": 2, "optimiser.epochs": 1, "optimiser.batch": 2, "start.hub": False}
    config = with_settings(tiny_config(network=network), changes)
    training = Training(config, data, tmp_path / "run", tmp_path)
    progress = training.run()
    assert progress.history[0]["loss"] > 0
    assert 0 <= progress.best_iou <= 1
    detector = detector_from_weights(tmp_path / "run" / BEST, config)
    pixels = np.zeros((2, 64, 64, 3), np.uint8)
    first, second = detector.detect(pixels, [(64, 64), (128, 96)], 0.0)
    assert len(first) == len(second)
    with pytest.raises(SetupError, match=f"no {network}"):
        detector_from_weights(tmp_path / "absent.safetensors", config)


def test_images_that_have_fewer_boxes_than_others_are_padded_with_empty_ones() -> None:
    class TwoThenOne(torch.nn.Module):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 5, 5]])
            return [{"boxes": boxes[:count], "scores": torch.full((count,), 0.5)} for count in (2, 1)]

    found = FasterRcnnCandidates(TwoThenOne())(torch.zeros(2, 8, 8, 3, dtype=torch.uint8))
    assert found["scores"].tolist() == [[0.5, 0.5], [0.5, 0.0]]
    assert found["boxes"][1, 1].tolist() == [0, 0, 0, 0]
    assert found["labels"].shape == (2, 2)


def test_the_weights_of_a_package_fill_the_body_of_a_detector_on_mobilenet_v2() -> None:
    whole = mobilenet_v2()
    checkpoint = io.BytesIO()
    torch.save(whole.state_dict(), checkpoint)
    state = CONVERTERS["mobilenet_v2"]({"checkpoint": checkpoint.getvalue()})
    config = with_settings(tiny_config(network=MOBILENET_V2), {"start.hub": False})
    body = with_weights(faster_rcnn(config, Path()).backbone.body, state)
    torch.testing.assert_close(body.state_dict()["18.0.weight"], whole.features[18][0].weight.detach())


def test_a_runs_weights_are_measured_by_split_and_the_worst_are_drawn(
    data: Path, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(tiny_config().model_dump_json())
    monkeypatch.setattr(evaluate_detector, "APPLICATION_SOURCES", ("kept-out",))
    arguments = ["--weights", str(run_dir / BEST), "--config", str(config), "--data", str(data), "--threads", "1"]
    assert evaluate_detector.main([*arguments, "--split", "train", "--worst", str(tmp_path / "worst.png")]) == 0
    assert "| one | 8 |" in capsys.readouterr().out
    assert (tmp_path / "worst.png").stat().st_size > 1000
    assert evaluate_detector.main([*arguments, "--split", "train", "--enlarge-px", "700"]) == 0
    assert "| one | 8 |" in capsys.readouterr().out


def test_only_a_confident_box_without_a_rival_teaches() -> None:
    def found(score: float, box: tuple[float, float, float, float]) -> Detection:
        return Detection(box=box, score=score, label="cat")

    best = found(0.9, (0, 0, 10, 10))
    assert sole_subject([best, found(0.8, (0, 0, 10, 9))], 0.5) == best
    assert sole_subject([best, found(0.8, (20, 20, 30, 30))], 0.5) is None
    assert sole_subject([best, found(0.3, (20, 20, 30, 30))], 0.5) == best
    assert sole_subject([found(0.4, (0, 0, 10, 10))], 0.5) is None
    assert sole_subject([], 0.5) is None


class SureOfHalf(Detector):
    """Is sure of one box in every second photo that it sees."""

    def __init__(self) -> None:
        super().__init__(TorchSession(torch.nn.Identity()), tiny_config().preprocess, ["thing"])
        self._seen = 0

    def detect(
        self, pixels: NDArray[np.uint8], sizes: Sequence[tuple[int, int]], min_score: float
    ) -> list[list[Detection]]:
        self._seen += 1
        return [[Detection(box=(8, 8, 60, 50), score=0.9 if self._seen % 2 else 0.3, label="thing")]]


def test_photos_without_boxes_are_labelled_and_learned_from(data: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    rows = ["file,set,split,class_name"]
    for number, file in enumerate(sorted((data / "autocrop").glob("*.png"))[:4]):
        rows.append(f"{file},things,{'test' if number == 3 else 'train'},thing")
    (tmp_path / "photos/manifest.csv").write_text("\n".join(rows) + "\n")
    photos = list(unlabelled_photos(tmp_path / "photos", ["things"], 9, seed=0))
    assert len(photos) == 3
    assert teach(SureOfHalf(), photos, tmp_path / "taught", min_score=0.5) == (2, 3)
    learned = read_photos(tmp_path / "taught", "train", "stop")
    assert [(photo.source, photo.subject) for photo in learned] == [("things", (8, 8, 60, 50))] * 2


def test_an_unlabelled_photo_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    with pytest.raises(SetupError, match="broken"):
        teach(SureOfHalf(), [(broken, "things", "thing")], tmp_path, 0.5)


def test_the_teacher_is_the_detector_that_training_starts_from(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write_half(PicoDet(), tmp_path / "coco.safetensors")
    sha256 = sha256_of(tmp_path / "coco.safetensors")
    (tmp_path / "coco.safetensors").rename(tmp_path / f"detector-{sha256[:16]}.safetensors")
    config = load_config(CONFIGS / "detector.yaml")
    start = config.start.model_copy(update={"weights_sha256": sha256})
    detector = coco_detector(config.model_copy(update={"start": start}), tmp_path)
    assert (len(detector.labels), detector.preprocess.height_px) == (80, 416)
    (found,) = detector.detect(np.zeros((1, 416, 416, 3), np.uint8), [(100, 50)], 0.0)
    assert found
    with pytest.raises(SetupError, match="no teacher"):
        coco_detector(config.model_copy(update={"start": StartWeights()}), tmp_path)


def test_the_least_blend_that_loses_nearly_nothing_is_taken() -> None:
    assert smallest_share({0.5: 0.80, 0.7: 0.896, 1.0: 0.90}, 0.005) == 0.7
    half = blend({"a": torch.zeros(2)}, {"a": torch.ones(2).half()}, 0.25)
    assert half["a"].tolist() == [0.25, 0.25]


def test_a_run_is_blended_with_its_start(data: Path, run_dir: Path) -> None:
    figures = blend_run(run_dir, data, run_dir, [0.5, 1.0], 0.0)
    assert sorted(figures) == [0.5, 1.0]
    assert (run_dir / BLENDED).exists()


def test_the_application_split_is_every_photo_of_its_sources(data: Path) -> None:
    photos = evaluate_detector.read_autocrop_manifest(data / "autocrop", "application", ("kept-out",))
    assert {photo.source for photo in photos} == {"kept-out"}
    assert len(photos) == 8


def test_every_runtime_says_what_torch_says(run_dir: Path) -> None:
    rows = measure_runtimes(run_dir / BEST, tiny_config().preprocess, repeats=2)
    assert {row.runtime for row in rows} >= {"torch", "TorchScript", "ONNX Runtime"}
    assert max(row.box_difference_px for row in rows) < 0.02
    assert max(row.score_difference for row in rows) < 1e-4
    assert "| ONNX Runtime |" in latency_table(rows)
