"""Tests of the metadata network's training: views, losses, what is frozen, a teacher, and a killed run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lookalike.config import ModelSettings
from lookalike.errors import SetupError
from tests.metadata_samples import small_data

torch = pytest.importorskip("torch", reason="training needs the extra lookalike[train]")
pytest.importorskip("timm", reason="training needs the extra lookalike[train]")

from torch.nn import functional as F  # noqa: E402

from training.metadata import compare_networks  # noqa: E402
from training.metadata.compare import comparison_table  # noqa: E402
from training.metadata.config import NetworkSettings, Stage, TrainingConfig, load_config  # noqa: E402
from training.metadata.data import IGNORED  # noqa: E402
from training.metadata.losses import distillation_loss, head_loss  # noqa: E402
from training.metadata.network import (  # noqa: E402
    CHECKPOINT,
    COLOURS,
    NETWORK_FILE,
    REPORT,
    ColourShares,
    HalvedBackbone,
    MetadataNetwork,
    halved,
)
from training.metadata.pictures import LearningSet, random_views, read_learning_set  # noqa: E402
from training.metadata.session import load_metadata_network  # noqa: E402
from training.metadata.teacher import Teacher, read_teacher  # noqa: E402
from training.train_metadata_network import Training, rate_at, start_network  # noqa: E402
from training.weights import write_half  # noqa: E402

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "metadata.yaml"
EDGE_PX = 64

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # The exporter and TensorBoard warn of their own insides.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def small_config(**changes: object) -> TrainingConfig:
    config = load_config(CONFIG)
    preprocess = config.network.preprocess.model_copy(update={"height_px": EDGE_PX, "width_px": EDGE_PX})
    small = {"preprocess": preprocess, "stages": [Stage(edge_px=32, epochs=2)], "batch": 32, "checkpoint_steps": 1}
    return config.model_copy(update={"network": config.network.model_copy(update=small | changes)})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LearningSet:
    config = small_config()
    return read_learning_set(config, small_data(tmp_path_factory.mktemp("data")), config.network.preprocess)


def training(config: TrainingConfig, data: LearningSet, run_dir: Path, teacher: Teacher | None = None) -> Training:
    torch.manual_seed(0)
    counts = {name: len(labels) for name, labels in data.labels.items()}
    return Training(config, data, MetadataNetwork(config.network.preprocess, counts), run_dir, teacher)


def test_a_killed_and_resumed_run_ends_with_the_same_weights(data: LearningSet, tmp_path: Path) -> None:
    config = small_config(trained="blocks.5")
    training(config, data, tmp_path / "whole").run()
    killed = training(config, data, tmp_path / "killed")
    killed.run(stop_after_steps=killed.steps_per_epoch + 2)
    assert killed.progress.epoch == 1
    training(config, data, tmp_path / "killed").run()
    assert (tmp_path / "killed" / NETWORK_FILE).read_bytes() == (tmp_path / "whole" / NETWORK_FILE).read_bytes()
    report = json.loads((tmp_path / "whole" / REPORT).read_text())
    assert set(report["val"]) == {"loss", "val/mean", *(f"val/{name}" for name in data.labels)}


def test_a_checkpoint_of_other_settings_is_named(data: LearningSet, tmp_path: Path) -> None:
    config = small_config(trained="heads")
    training(config, data, tmp_path).run(stop_after_steps=1)
    with pytest.raises(SetupError, match=CHECKPOINT):
        training(small_config(trained="heads", dropout=0.5), data, tmp_path)
    with pytest.raises(SetupError, match=CHECKPOINT):
        training(config, data.part(0.5, seed=1), tmp_path)


@pytest.mark.parametrize(("trained", "changed"), [("heads", []), ("blocks.6", ["blocks.6", "bn2", "conv_head"])])
def test_only_what_is_trained_changes(data: LearningSet, tmp_path: Path, trained: str, changed: list[str]) -> None:
    run = training(small_config(trained=trained), data, tmp_path)
    before = {name: tensor.clone() for name, tensor in run.network.backbone.state_dict().items()}
    run.run(stop_after_steps=2)
    after = run.network.backbone.state_dict()
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {".".join(n.split(".")[:2]) if n.startswith("blocks") else n.split(".")[0] for n in moved} == set(changed)


def test_a_run_goes_on_from_the_weights_of_an_earlier_one(data: LearningSet, tmp_path: Path) -> None:
    before = MetadataNetwork(small_config().network.preprocess, {"letter": 2})
    write_half(before.backbone, tmp_path / "earlier.safetensors")
    started = start_network(small_config(weights=tmp_path / "earlier.safetensors"), data.labels, tmp_path)
    for name, tensor in started.backbone.state_dict().items():
        torch.testing.assert_close(tensor, before.backbone.state_dict()[name].half().to(tensor.dtype), msg=name)
    (tmp_path / "other.safetensors").write_bytes(b"no weights")
    for name in ("other", "missing"):
        with pytest.raises(SetupError, match=name):
            start_network(small_config(weights=tmp_path / f"{name}.safetensors"), data.labels, tmp_path)


def test_an_unknown_part_is_named(data: LearningSet, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"blocks\.9"):
        training(small_config(trained="blocks.9"), data, tmp_path)


def test_training_learns_what_the_pictures_show(data: LearningSet, tmp_path: Path) -> None:
    stages = [Stage(edge_px=32, epochs=12)]
    config = small_config(trained="blocks.5", stages=stages, ema=0.5, learning_rate=0.01, backbone_learning_rate=0.002)
    run = training(config, data, tmp_path)
    run.run()
    assert run.measure()["articleType"] > 0.9


def test_a_model_for_one_attribute_alone_has_one_head(data: LearningSet, tmp_path: Path) -> None:
    alone = data.only(["gender"])
    run = training(small_config(trained="heads"), alone, tmp_path)
    run.run(stop_after_steps=1)
    assert list(run.measure()) == ["gender"]
    with pytest.raises(SetupError, match="price"):
        data.only(["price"])


def test_a_share_of_the_train_pictures_keeps_labels_copies_and_val(data: LearningSet) -> None:
    numbered = replace(data, copies=np.arange(len(data.train)))  # so that what is kept can be told
    part = numbered.part(0.5, seed=3)
    kept = part.copies.tolist()
    assert len(kept) == len(set(kept)) == round(0.5 * len(data.train))
    assert [row.line for row in part.train.rows] == [data.train.rows[number].line for number in kept]
    assert torch.equal(part.train.pixels, data.train.pixels[kept])
    assert part.labels == data.labels
    assert part.val is data.val
    assert numbered.part(0.5, seed=3).copies.tolist() == kept
    assert numbered.part(0.5, seed=4).copies.tolist() != kept
    with pytest.raises(SetupError, match="above 0"):
        data.part(0, seed=3)


def test_what_is_measured_is_measured_again_only_after_a_step(data: LearningSet, tmp_path: Path) -> None:
    run = training(small_config(trained="heads", ema=0.01, learning_rate=0.1), data, tmp_path)
    run.run(stop_after_steps=1)
    first = run.scores()
    assert run.scores() is first
    run.run(stop_after_steps=2)
    assert run.scores() is not first


def test_what_is_written_is_served_at_half_the_resolution(data: LearningSet, tmp_path: Path) -> None:
    config = small_config(trained="heads", stages=[Stage(edge_px=32, epochs=1)])
    training(config, data, tmp_path).run()
    source = load_metadata_network(tmp_path / NETWORK_FILE, config.network.preprocess, ModelSettings(threads=1))
    pixels = np.random.default_rng(0).integers(0, 255, (2, EDGE_PX, EDGE_PX, 3), dtype=np.uint8)
    torch.manual_seed(0)
    fresh = MetadataNetwork(config.network.preprocess, {"any": 2}).eval()
    with torch.no_grad():
        expected = HalvedBackbone(fresh.backbone, config.network.preprocess)(torch.from_numpy(pixels))["features"]
        pooled = expected[:, : fresh.backbone.num_features]
        from_halved = fresh.backbone(fresh.normalise(halved(torch.from_numpy(pixels))))
    # The heads alone were trained: the network is the random one of the seed, but for float16.
    assert np.allclose(source.embed(pixels).features, expected.numpy(), atol=2e-2)
    assert torch.allclose(from_halved, pooled, atol=2e-2)


def test_shares_of_colours_tell_colours_and_hardly_see_white_ground() -> None:
    red, half_white = torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)
    red[:, 0] = 1
    half_white[:, :, :4] = red[:, :, :4]
    shares = ColourShares()(torch.cat([red, half_white, 1 - red]))
    assert shares.shape == (3, COLOURS)
    assert torch.allclose(shares.square().sum(1), torch.ones(3), atol=1e-5)
    assert shares[0] @ shares[1] > 0.9  # a tenth of the ground's weight
    assert shares[0] @ shares[2] < 0.1


def test_views_stay_white_beyond_the_picture_and_keep_its_hue() -> None:
    red = torch.zeros(64, 16, 16, 3, dtype=torch.uint8)
    red[..., 0] = 200
    views = random_views(red, 24, 0.7, 0.0, torch.Generator().manual_seed(1)).reshape(-1, 3).float()
    assert views.shape == (64 * 24 * 24, 3)
    inside = (views - torch.tensor([200.0, 0, 0])).abs().amax(1) <= 1
    white = (views >= 254).all(1)
    assert 0.8 < inside.float().mean() < 1
    assert white.any()
    assert (views[:, 1] == views[:, 2]).all()


def settings_of(**changes: object) -> NetworkSettings:
    return small_config(**changes).network.model_copy(update={"label_smoothing": 0.0})


def test_unknown_labels_are_left_out_of_the_loss() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    weights = torch.ones(2)
    known = head_loss(logits[:1], torch.tensor([0]), weights, settings_of())
    assert head_loss(logits, torch.tensor([0, IGNORED]), weights, settings_of()) == pytest.approx(float(known))
    assert head_loss(logits, torch.tensor([IGNORED, IGNORED]), weights, settings_of()) == 0


def test_the_focal_loss_matches_its_formula() -> None:
    logits, classes = torch.tensor([[2.0, 0.0], [0.0, 0.5]]), torch.tensor([0, 0])
    right = logits.softmax(1)[:, 0]
    expected = (-((1 - right) ** 2) * right.log()).mean()
    assert head_loss(logits, classes, torch.ones(2), settings_of(focal_gamma=2.0)) == pytest.approx(float(expected))


def test_class_weights_turn_frequent_classes_down() -> None:
    logits, classes = torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 1])
    plain = F.cross_entropy(logits, classes, torch.tensor([1.0, 3.0]))
    assert head_loss(logits, classes, torch.tensor([1.0, 3.0]), settings_of()) == pytest.approx(float(plain))


def test_a_teacher_is_followed() -> None:
    teacher = torch.tensor([[0.8, 0.2]]).log()
    settings = settings_of(teacher_temperature=1.0)
    agreeing = distillation_loss(torch.tensor([[0.8, 0.2]]).log(), teacher, settings)
    opposed = distillation_loss(torch.tensor([[0.2, 0.8]]).log(), teacher, settings)
    assert float(agreeing) < float(opposed)
    assert float(agreeing) == pytest.approx(-(0.8 * np.log(0.8) + 0.2 * np.log(0.2)), abs=1e-3)


TAUGHT: dict[str, object] = {
    "trained": "blocks.5",
    "stages": [Stage(edge_px=32, epochs=6)],
    "ema": 0.5,
    "learning_rate": 0.01,
    "backbone_learning_rate": 0.002,
}


@pytest.fixture(scope="module")
def taught_by(data: LearningSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run to learn from."""
    folder = tmp_path_factory.mktemp("teacher")
    training(small_config(**TAUGHT), data, folder).run()
    return folder


def test_a_teacher_says_what_its_average_says(data: LearningSet, taught_by: Path) -> None:
    again = training(small_config(**TAUGHT), data, taught_by)
    views = data.val.pixels[:4]
    expected = again.ema.module.eval()(views)
    twice = read_teacher([taught_by, taught_by], data.labels)(views)
    for name, logits in twice.items():
        assert torch.allclose(logits, expected[name], atol=1e-5)


def test_a_teacher_of_other_labels_is_named(data: LearningSet, taught_by: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="gender"):
        read_teacher([taught_by], {**data.labels, "gender": ["Robots"]})
    with pytest.raises(SetupError, match="nowhere"):
        read_teacher([tmp_path / "nowhere"], data.labels)


def test_a_run_follows_its_teacher(data: LearningSet, taught_by: Path, tmp_path: Path) -> None:
    teacher = read_teacher([taught_by], data.labels)
    run = training(small_config(**TAUGHT, teacher_weight=1.0), data, tmp_path, teacher)
    views = data.train.pixels[:32]

    @torch.no_grad()
    def agreement() -> float:
        said, taught = run.ema.module.eval()(views), teacher(views)
        return float(torch.stack([(said[n].argmax(1) == taught[n].argmax(1)).float().mean() for n in said]).mean())

    before = agreement()
    run.run()
    assert agreement() > max(0.7, before + 0.1)


def test_ways_to_train_are_compared_and_a_killed_comparison_goes_on(
    data: LearningSet, taught_by: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untrained(config: TrainingConfig, labels: dict[str, list[str]], downloads_dir: Path) -> MetadataNetwork:
        torch.manual_seed(config.seed)
        return MetadataNetwork(config.network.preprocess, {name: len(listed) for name, listed in labels.items()})

    monkeypatch.setattr(compare_networks, "start_network", untrained)  # the real one downloads ImageNet's weights
    config, teacher = small_config(trained="blocks.6"), read_teacher([taught_by], data.labels)

    def comparison() -> compare_networks.Comparison:
        return compare_networks.Comparison(config, data, teacher, 1, (tmp_path, tmp_path))

    ways = comparison().results()
    first = next(ways)
    ways.close()  # killed after the first
    # What is done is read, not measured again.
    with monkeypatch.context() as nothing_measured:
        nothing_measured.setattr(MetadataNetwork, "forward", None)
        assert next(comparison().results()) == first
    results = list(comparison().results())
    assert [result.title for result in results] == [variant.title for variant in compare_networks.variants(True)]
    assert results[0].scores == first.scores
    assert all(set(result.scores["val"]) == set(data.labels) for result in results)
    one, separate = results[:2]
    assert separate.parameters > one.parameters
    table = comparison_table(results, "val")
    assert table.row_count == len(results)


def test_the_configuration_of_the_comparison_trains_smaller_than_the_service_sees() -> None:
    network = load_config(CONFIG.with_name("metadata_compare.yaml")).network
    assert network.stages[-1].edge_px < network.preprocess.width_px // 2


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    rates = [rate_at(done, 0.1) for done in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates[0] < rates[1] < rates[2] == pytest.approx(1.0)
    assert rates[3] == pytest.approx(0.5)
    assert rates[4] == pytest.approx(0.0, abs=1e-9)
