"""Which runtime and device are chosen, and how a choice that cannot be met is refused."""

import sys
from pathlib import Path

import pytest

from lookalike import runtimes
from lookalike.config import ModelSettings
from lookalike.errors import SetupError
from lookalike.runtimes import available_cores, choose_device, choose_runtime, load_session


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(runtimes, "_cuda_is_available", lambda: request.param)


@pytest.mark.parametrize(
    ("cuda", "runtime", "device", "expected"),
    [
        (False, "auto", "auto", ("onnx", "cpu")),
        (True, "auto", "auto", ("torch", "cuda")),
        (True, "auto", "cpu", ("onnx", "cpu")),
        (True, "onnx", "auto", ("onnx", "cpu")),
        (True, "torch", "auto", ("torch", "cuda")),
        (False, "torch", "auto", ("torch", "cpu")),
        (True, "auto", "cuda", ("torch", "cuda")),
    ],
    indirect=["cuda"],
)
def test_auto_takes_torch_on_cuda_and_onnx_on_cpu(
    cuda: None, runtime: str, device: str, expected: tuple[str, str]
) -> None:
    settings = ModelSettings.load({"runtime": runtime, "device": device})
    chosen = choose_device(settings)
    assert (choose_runtime(settings, chosen), chosen) == expected


@pytest.mark.parametrize("cuda", [False], indirect=True)
def test_cuda_without_a_device_is_refused(cuda: None) -> None:
    with pytest.raises(SetupError, match="no CUDA device"):
        choose_device(ModelSettings(device="cuda"))


@pytest.mark.parametrize("cuda", [True], indirect=True)
def test_onnx_on_cuda_is_refused(cuda: None) -> None:
    settings = ModelSettings(runtime="onnx", device="cuda")
    with pytest.raises(SetupError, match="CPU only") as refused:
        choose_runtime(settings, choose_device(settings))
    assert refused.value.allowed == ["auto", "torch"]


def test_a_runtime_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runtimes._PACKAGES, "openvino", "lookalike_has_no_such_package")
    with pytest.raises(SetupError, match="'openvino' is not installed") as refused:
        choose_runtime(ModelSettings(runtime="openvino"), "cpu")
    assert "onnx" in (refused.value.allowed or [])


def test_at_least_one_core_is_available() -> None:
    assert available_cores() >= 1


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"cpu.max": ""}, 16),
        ({"cpu.max": "max 100000\n"}, 16),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 16),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
    ],
)
def test_a_containers_quota_bounds_the_cores_under_both_versions_of_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(runtimes, "_CGROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)))
    assert available_cores() == cores


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"model\.json"):
        load_session(tmp_path, ModelSettings(device="cpu"))


def test_where_no_gpu_is_torch_is_not_even_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_GPU_DRIVERS", (Path("/dev/no-such-driver"),))
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it would fail
    assert choose_device(ModelSettings()) == "cpu"


def test_where_a_gpu_is_torch_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "_GPU_DRIVERS", (Path("/dev/null"),))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose_device(ModelSettings()) == "cuda"
