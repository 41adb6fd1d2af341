"""Runs an exported network: ONNX Runtime or OpenVINO on CPU, torch on CUDA; the same results from each."""

import importlib.util
import os
import threading
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.config import ModelSettings
from lookalike.errors import SetupError
from lookalike.model_store import ONNX_FILE, TORCH_FILE, verified_file

Runtime = Literal["onnx", "openvino", "torch"]

# Made by the drivers of NVIDIA (also on Jetson, under WSL) and AMD. A container sees those of the GPUs given to it.
_GPU_DRIVERS = tuple(map(Path, ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")))

_CGROUP = Path("/sys/fs/cgroup")
_PACKAGES: dict[Runtime, str] = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}


class Session(Protocol):
    """A loaded network; any thread may call it."""

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return the network's outputs by name for pixels `(n, h, w, 3)` uint8 of the network's input size, n >= 1."""


def load_session(model_dir: Path, settings: ModelSettings) -> Session:
    """Load the built model in `model_dir` for the runtime and device that `settings` ask for.

    Raises:
        SetupError: for a missing or altered file, a runtime that is not installed, or CUDA where there is none.
    """
    device = choose_device(settings)
    runtime = choose_runtime(settings, device)
    threads = settings.threads or available_cores()
    if runtime == "torch":
        return TorchSession(verified_file(model_dir, TORCH_FILE), device, threads)
    onnx_path = verified_file(model_dir, ONNX_FILE)
    return OnnxSession(onnx_path, threads) if runtime == "onnx" else OpenVinoSession(onnx_path, threads)


def choose_device(settings: ModelSettings) -> Literal["cpu", "cuda"]:
    """Return the device; `auto` is CUDA where torch sees it, unless another runtime than torch is asked for.

    Raises:
        SetupError: when `cuda` is asked for and cannot be had.
    """
    if settings.device == "cpu" or (settings.device == "auto" and settings.runtime in ("onnx", "openvino")):
        return "cpu"
    if _cuda_is_available():
        return "cuda"
    if settings.device == "cuda":
        raise SetupError("device 'cuda' is asked for, but torch sees no CUDA device", allowed=["auto", "cpu"])
    return "cpu"


def choose_runtime(settings: ModelSettings, device: Literal["cpu", "cuda"]) -> Runtime:
    """Return the runtime; `auto` is torch on CUDA and ONNX Runtime on CPU (docs/adr/0003-cpu-runtime.md).

    Raises:
        SetupError: when it does not run on `device` or is not installed.
    """
    if settings.runtime == "auto":
        runtime: Runtime = "torch" if device == "cuda" else "onnx"
    else:
        runtime = settings.runtime
    if device == "cuda" and runtime != "torch":
        raise SetupError(f"runtime {runtime!r} runs on the CPU only", allowed=["auto", "torch"])
    if not is_installed(runtime):
        installed = [name for name in _PACKAGES if is_installed(name)]
        raise SetupError(f"runtime {runtime!r} is not installed", allowed=installed)
    return runtime


def is_installed(runtime: Runtime) -> bool:
    """Tell whether a runtime's package can be imported; nothing is imported."""
    return importlib.util.find_spec(_PACKAGES[runtime]) is not None


def available_cores() -> int:
    """Return the cores that this process may use: its affinity, and its container's CPU quota rounded up."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _cpu_quota()
    except (OSError, ValueError):
        return cores
    # More threads than the quota allows would be throttled together, in the middle of a request.
    return cores if quota in ("max", "-1") else max(1, min(cores, -(-int(quota) // int(period))))


def _cpu_quota() -> tuple[str, str]:
    """Return the microseconds of CPU time that the container may use, and in which period, as the kernel tells them."""
    if (told := _CGROUP / "cpu.max").exists():
        quota, period = told.read_text().split()
    else:  # version 1
        quota, period = ((_CGROUP / f"cpu/cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    return quota, period


class OnnxSession:
    """ONNX Runtime on the CPU."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Several workers share the cores: an idle worker must not spin on one.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """See `Session.run`."""
        return dict(zip(self._outputs, self._session.run(self._outputs, {self._input: batch}), strict=True))


class OpenVinoSession:
    """OpenVINO on the CPU, in float32 so that its results are those of the other runtimes."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,  # several workers share the cores
        }
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()
        self._outputs = [output.get_any_name() for output in compiled.outputs]

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """See `Session.run`."""
        with self._lock:
            self._request.infer([np.ascontiguousarray(batch)])
            # The tensors belong to the request and are overwritten by the next call.
            return {name: self._request.get_tensor(name).data.copy() for name in self._outputs}


class TorchSession:
    """torch on CUDA, or on the CPU for comparison; in float32, so that a query meets the index as it was built."""

    def __init__(self, path: Path, device: Literal["cpu", "cuda"], threads: int) -> None:
        import torch
        from torch.export.passes import move_to_device_pass

        self._torch = torch
        self._device = torch.device(device)
        if device == "cpu":
            torch.set_num_threads(threads)
        else:
            # TF32 keeps 10 bits of the mantissa: embeddings would differ from those that a CPU computed.
            torch.backends.cudnn.allow_tf32 = False
            torch.set_float32_matmul_precision("highest")
        program = torch.export.load(str(path))
        self._module = move_to_device_pass(program, self._device).module()

    def run(self, batch: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """See `Session.run`."""
        torch = self._torch
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(batch))
            if self._device.type == "cuda":  # only a copy from pinned memory runs beside the launches
                pixels = pixels.pin_memory().to(self._device, non_blocking=True)
            outputs = self._module(pixels)
            return {name: output.cpu().numpy() for name, output in outputs.items()}


def gpu_is_there() -> bool:
    """Tell whether this machine has a GPU's driver; whether torch can use it is another question."""
    return any(driver.exists() for driver in _GPU_DRIVERS)


def _cuda_is_available() -> bool:
    # Importing torch only to hear that there is none takes seconds and 400 MB.
    if not gpu_is_there() or not is_installed("torch"):
        return False
    import torch

    return torch.cuda.is_available()
