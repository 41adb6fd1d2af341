"""Tests of the embedder's training: whole small runs, a killed one, several processes, each loss, each pooling."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lookalike.config import ModelSettings
from lookalike.errors import SetupError

torch = pytest.importorskip("torch", reason="training needs the extra lookalike[train]")
pytest.importorskip("pytorch_metric_learning", reason="training needs the extra lookalike[train]")

from tests.unit.embedder_samples import SIZE_PX, data_folder, small_config  # noqa: E402
from training.embedder import loop as embedder_loop  # noqa: E402
from training.embedder.blend import SHARES, blend, smallest_share  # noqa: E402
from training.embedder.cache import UntouchedNetwork  # noqa: E402
from training.embedder.checkpoint import CHECKPOINT_FILE  # noqa: E402
from training.embedder.config import EmbedderConfig, LossSettings, load_config  # noqa: E402
from training.embedder.data import PixelBatches  # noqa: E402
from training.embedder.losses import LOSSES, SetLosses  # noqa: E402
from training.embedder.network import Pool, assemble, create_backbone, start_projection  # noqa: E402
from training.embedder.processes import Processes  # noqa: E402
from training.embedder.session import load_embedder  # noqa: E402
from training.embedder.store import create_network, read_embedder, write_embedder  # noqa: E402
from training.embedder.views import WhiteBalance  # noqa: E402
from training.train_embedder import Folders, train  # noqa: E402

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # The exporter and TensorBoard warn of their own insides.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


def run(config: EmbedderConfig, data: Path, run_dir: Path, go_on: bool = True):  # type: ignore[no-untyped-def]
    folders = Folders(run_dir, data, run_dir.parent / "cache", run_dir.parent)
    return train(config, folders, Processes("cpu"), threads=1, go_on=go_on)


def weights_of(run_dir: Path) -> bytes:
    return (run_dir / "weights.safetensors").read_bytes()


class Killed(Exception):
    pass


@pytest.mark.parametrize("views", [0, 3])
def test_a_killed_and_resumed_run_ends_with_the_same_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int
) -> None:
    config = small_config(views={"cached": views}, loss={"name": "triplet-random"})
    run(config, data, tmp_path / "whole")
    steps = embedder_loop.Trainer.step

    def killed_at_five(trainer, batch):  # type: ignore[no-untyped-def]
        if trainer.progress.step == 5:
            raise Killed
        return steps(trainer, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(embedder_loop.Trainer, "step", killed_at_five)
        run(config, data, tmp_path / "killed")
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    unfinished = run(config, data, tmp_path / "killed", go_on=False)
    assert unfinished.progress.step == 4
    run(config, data, tmp_path / "killed")
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "whole")


def test_two_processes_learn_what_one_learns(data: Path, tmp_path: Path) -> None:
    # Average pooling: GeM's power has next to no gradient here, and Adam would blow up the last bit of it.
    config = small_config(network={"dropout": 0.0, "pooling": "avg"}, loss={"name": "proxy-anchor"})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    run(config, data, tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "training.train_embedder", "--config", str(tmp_path / "config.yaml"), "--device", "cpu"]
    command += ["--threads", "1", "--out", str(tmp_path / "two"), "--data", str(data), "--cache", str(tmp_path)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (read_embedder(tmp_path / name).state_dict() for name in ("one", "two"))
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=1e-3) for name in one)


def test_training_lowers_the_loss_and_writes_its_curves(data: Path, tmp_path: Path) -> None:
    changes = {"network": {"dropout": 0.0}, "loss": {"keep_weight": 0.0, "name": "supervised-contrastive"}}
    rates = {"learning_rate": 0.001, "backbone_learning_rate": 0.0002}
    trained = run(small_config(**changes, optimisation={**rates, "steps": 40}), data, tmp_path / "trained")
    untrained = run(small_config(**changes, optimisation={**rates, "steps": 1}), data, tmp_path / "untrained")
    batches = PixelBatches(trained.data, first_step=0)
    assert first_losses(trained, batches) < 0.5 * first_losses(untrained, batches)
    lines = [json.loads(line) for line in (tmp_path / "trained" / "figures.jsonl").read_text().splitlines()]
    assert {"loss/total", "validation/recall_at_1"} <= {name for line in lines for name in line}
    assert list((tmp_path / "trained" / "tensorboard").iterdir())


def first_losses(trainer, batches: PixelBatches) -> float:  # type: ignore[no-untyped-def]
    """Return the sum of the losses of the first six batches, each before a step on it."""
    totals = []
    for number in range(6):
        trainer.progress = trainer.progress._replace(step=number)
        totals.append(trainer.step(batches[number])["total"])
    return sum(totals)


def test_a_run_stops_when_validation_no_longer_improves(data: Path, tmp_path: Path) -> None:
    config = small_config(
        validation={"every_steps": 1, "patience": 2},
        optimisation={"steps": 40, "learning_rate": 1e-12, "backbone_learning_rate": 1e-12},
    )
    trainer = run(config, data, tmp_path / "run")
    assert trainer.progress.step == 3
    assert trainer.progress.best_step == 1


def test_a_run_of_another_configuration_is_not_gone_on_with(data: Path, tmp_path: Path) -> None:
    run(small_config(), data, tmp_path / "run")
    with pytest.raises(SetupError, match="another configuration"):
        run(small_config(seed=2), data, tmp_path / "run")


def test_a_cut_checkpoint_is_named(data: Path, tmp_path: Path) -> None:
    run(small_config(), data, tmp_path / "run")
    (tmp_path / "run" / CHECKPOINT_FILE).write_bytes(b"cut")
    with pytest.raises(SetupError, match=CHECKPOINT_FILE):
        run(small_config(), data, tmp_path / "run")


def test_features_stay_those_of_the_untrained_backbone(data: Path, tmp_path: Path) -> None:
    trainer = run(small_config(), data, tmp_path / "run")
    torch.manual_seed(trainer.config.seed)
    untrained = create_backbone("test_efficientnet", "random").eval()
    pixels = torch.rand(2, 3, SIZE_PX, SIZE_PX)
    network = trainer.result.eval()
    with torch.no_grad():
        features = network.plain_features(network.trunk(pixels))
        assert torch.allclose(features, untrained(pixels), atol=1e-5)
        assert not torch.allclose(network.pool(network.tail(network.trunk(pixels))), features, atol=1e-4)


def test_a_run_is_measured_as_the_service_would_run_it(data: Path, tmp_path: Path) -> None:
    run(small_config(), data, tmp_path / "run")
    embedder = load_embedder(tmp_path / "run", ModelSettings(threads=1))
    pixels = np.random.default_rng(0).integers(0, 255, (3, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    embedded = embedder.embed(pixels)
    network = read_embedder(tmp_path / "run")
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1)
    assert np.allclose(embedded.embeddings, expected.numpy(), atol=1e-4)
    assert np.allclose(np.linalg.norm(embedded.embeddings, axis=1), 1, atol=1e-5)
    assert embedded.features.shape == (3, embedder.feature_dim)


def test_an_embedder_may_give_its_own_features_in_one_pass(data: Path, tmp_path: Path) -> None:
    config = small_config(network={"features": "trained"}, views={"cached": 3})
    network = run(config, data, tmp_path / "run").result.eval()
    assert network.plain_tail is None
    stored = read_embedder(tmp_path / "run")
    pixels = torch.rand(2, 3, SIZE_PX, SIZE_PX)
    with torch.no_grad():
        embedding, features = stored.both(pixels)
        assert torch.allclose(torch.nn.functional.normalize(stored.projection(features), dim=1), embedding, atol=1e-6)
    assert load_embedder(tmp_path / "run", ModelSettings(threads=1)).feature_dim == stored.feature_dim


def test_too_few_cached_views_for_validation_are_named() -> None:
    with pytest.raises(ValueError, match="paintings needs more than 2 cached views"):
        small_config(views={"cached": 2})


def _start_of(config: EmbedderConfig, folder: Path):  # type: ignore[no-untyped-def]
    torch.manual_seed(config.seed)
    return create_network(config.network, folder)


@pytest.mark.parametrize(("keep_of", "same"), [("views", False), ("pictures", True)])
def test_what_is_kept_is_what_the_untrained_network_says(data: Path, tmp_path: Path, keep_of: str, same: bool) -> None:
    changes = {"network": {"features": "trained"}, "loss": {"keep_of": keep_of}, "optimisation": {"steps": 3}}
    config = small_config(views={"cached": 0}, **changes)
    trainer = run(config, data, tmp_path / "run")
    kept = trainer._kept
    assert kept is not None
    batch = PixelBatches(trainer.data, first_step=0)[0]
    untouched = UntouchedNetwork(_start_of(config, tmp_path), config.preprocess).eval()
    shown = [trainer.data.views.plain(trainer.data.train[sample.position]) for sample in batch.samples]
    pixels = torch.from_numpy(np.stack(shown)) if same else batch.inputs
    with torch.no_grad():
        expected = untouched(pixels)[1]
    assert torch.allclose(kept.of(batch, batch.inputs), expected, rtol=1e-2, atol=1e-3)


def test_white_balance_scales_each_channel_by_itself() -> None:
    grey = Image.new("RGB", (2, 2), (100, 100, 100))
    assert WhiteBalance(0.0)(grey) is grey
    torch.manual_seed(3)
    seen = {WhiteBalance(0.25)(grey).getpixel((0, 0)) for _ in range(20)}
    assert all(75 <= level <= 125 for pixel in seen for level in pixel)  # type: ignore[union-attr]
    assert any(len(set(pixel)) == 3 for pixel in seen)  # type: ignore[arg-type]


def test_a_blend_lies_between_the_start_and_the_trained_embedder(data: Path, tmp_path: Path) -> None:
    config = small_config(views={"cached": 3})
    trained = run(config, data, tmp_path / "run").result
    folders = Folders(tmp_path / "run", data, tmp_path / "cache", tmp_path)
    recalls = blend(config, folders, tmp_path / "blended", allow=1.0, threads=1)
    half, whole = read_embedder(tmp_path / "blended").state_dict(), trained.state_dict()
    name = "projection.1.weight"
    start = (half[name] - SHARES[0] * whole[name]) / (1 - SHARES[0])
    assert set(recalls) == set(SHARES)
    assert not torch.allclose(half[name], whole[name], atol=1e-4)
    assert torch.allclose(start @ start.T, torch.eye(len(start)), atol=5e-2)  # the principal axes
    assert smallest_share({0.4: 0.8, 0.7: 0.895, 1.0: 0.9}, 0.01) == 0.7


def test_weights_are_written_the_same_each_time(data: Path, tmp_path: Path) -> None:
    trainer = run(small_config(), data, tmp_path / "run")
    (tmp_path / "again").mkdir()
    write_embedder(trainer.result, trainer.config, tmp_path / "again")
    assert weights_of(tmp_path / "again") == weights_of(tmp_path / "run")


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_draws_the_pictures_of_a_class_together(name: str) -> None:
    torch.manual_seed(0)
    embeddings = torch.nn.Parameter(torch.randn(12, 8))
    classes = torch.arange(12) // 3
    losses = SetLosses(LossSettings(name=name), {"one": 4}, 8)
    optimiser = torch.optim.Adam([embeddings, *losses.parameters()], lr=0.05)

    def separation() -> float:
        unit = torch.nn.functional.normalize(embeddings.detach(), dim=1)
        same = classes[:, None] == classes[None]
        similarity = unit @ unit.T
        return float(similarity[same].mean() - similarity[~same].mean())

    before = separation()
    for _ in range(60):
        loss = losses(torch.nn.functional.normalize(embeddings, dim=1), classes, ["one"] * 12)["one"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert separation() > before + 0.15


def test_sets_do_not_oppose_each_other_and_similarities_are_kept() -> None:
    losses = SetLosses(LossSettings(name="multi-similarity", keep_weight=2.0), {"one": 2, "two": 2}, 4)
    embeddings = torch.nn.functional.normalize(torch.randn(8, 4), dim=1)
    classes, sets = torch.tensor([0, 0, 1, 1] * 2), ["one"] * 4 + ["two"] * 4
    parts = losses(embeddings, classes, sets, plain=embeddings)
    assert set(parts) == {"one", "two", "keep"}
    assert float(parts["keep"]) == 0
    alone = losses(embeddings[:4], classes[:4], sets[:4])
    assert float(alone["one"]) == pytest.approx(float(parts["one"]))


def test_similarities_within_a_free_set_may_change() -> None:
    settings = LossSettings(name="multi-similarity", keep_weight=2.0, free_sets=["one"])
    losses = SetLosses(settings, {"one": 2, "two": 2}, 4)
    plain = torch.nn.functional.normalize(torch.randn(8, 4), dim=1)
    classes, sets = torch.tensor([0, 0, 1, 1] * 2), ["one"] * 4 + ["two"] * 4
    changed = plain.clone()
    changed[4:] = plain[4:].flip(0)
    change = changed @ changed.T - plain @ plain.T
    counted = torch.cat([change[:4, 4:].flatten(), change[4:].flatten()])
    assert float(losses(changed, classes, sets, plain)["keep"]) == pytest.approx(2 * float(counted.square().mean()))
    with pytest.raises(SetupError, match="three"):
        SetLosses(settings.model_copy(update={"free_sets": ["three"]}), {"one": 2}, 4)


def test_an_unknown_loss_or_argument_is_named() -> None:
    with pytest.raises(SetupError, match="quadruplet"):
        SetLosses(LossSettings(name="quadruplet"), {"one": 2}, 4)
    with pytest.raises(SetupError, match="heat"):
        SetLosses(LossSettings(name="supervised-contrastive", arguments={"heat": 1.0}), {"one": 2}, 4)


def test_pooling_matches_the_formulas() -> None:
    tokens = torch.rand(2, 5, 3)
    assert torch.allclose(Pool("avg", 1)(tokens), tokens[:, 1:].mean(1))
    assert torch.allclose(Pool("gem", power=3.0)(tokens), (tokens**3).mean(1) ** (1 / 3), atol=1e-5)
    assert torch.equal(Pool("cls", 1)(tokens), tokens[:, 0])
    with pytest.raises(SetupError, match="class token"):
        Pool("cls", 0)


BACKBONES = [
    ("test_efficientnet", "blocks.1", "gem", 64),
    ("test_vit", "projection", "cls", 160),
    ("test_vit", "all", "avg", 160),
    ("swinv2_tiny_window8_256", "layers.3", "gem", 256),
    ("tiny_vit_5m_224", "stages.3", "avg", 224),
]


@pytest.mark.parametrize(("name", "trained", "pooling", "size_px"), BACKBONES)
def test_backbones_of_each_kind_can_be_cut(name: str, trained: str, pooling: str, size_px: int) -> None:
    backbone = create_backbone(name, "random").eval()
    pixels = torch.rand(1, 3, size_px, size_px)
    with torch.no_grad():
        whole = backbone.forward_features(pixels)
        network = assemble(backbone, pooling, 16, trained).eval()  # type: ignore[arg-type]
        features = network.trunk(pixels)
        tokens = network.plain_tail(features)
        embedding = network.embed_map(features)
    expected = whole if whole.ndim == 3 else (whole.flatten(1, 2) if name.startswith("swin") else whole.flatten(2).mT)
    assert torch.allclose(tokens, expected, atol=1e-5)
    assert embedding.shape == (1, 16)
    assert torch.allclose(embedding.norm(dim=1), torch.ones(1), atol=1e-5)


def test_the_first_projection_keeps_similarities() -> None:
    network = assemble(create_backbone("test_efficientnet", "random"), "avg", 8, "projection").eval()
    features = torch.rand(200, 8) @ torch.rand(8, network.feature_dim)  # of rank 8: nothing need be lost
    start_projection(network, features, torch.ones(200))
    with torch.no_grad():
        embedding = torch.nn.functional.normalize(network.projection(features), dim=1)
    unit = torch.nn.functional.normalize(features, dim=1)
    assert torch.allclose(embedding @ embedding.T, unit @ unit.T, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet_of_my_own"}, "resnet_of_my_own"),
        ({"trained": "blocks.99"}, "blocks.99"),
        ({"weights": "nowhere.safetensors"}, "nowhere.safetensors"),
    ],
)
def test_a_wrong_network_setting_is_named(data: Path, tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        run(small_config(network=changes), data, tmp_path / "run")


def test_the_shipped_configurations_are_valid() -> None:
    configs = sorted((ROOT / "training" / "configs").glob("embedder*.yaml"))
    assert configs
    for path in configs:
        assert load_config(path).network.dim <= 512


def test_a_wrong_key_of_the_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "embedder.yaml").write_text(yaml.safe_dump({**small_config().model_dump(mode="json"), "sead": 1}))
    with pytest.raises(SetupError, match="sead"):
        load_config(tmp_path / "embedder.yaml")
