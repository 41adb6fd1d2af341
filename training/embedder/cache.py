"""What the untrained part of the network says of each picture's views, computed once, kept on disk, resumable."""

import hashlib
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lookalike.errors import SetupError
from lookalike.preprocessing import Preprocess
from lookalike.progress import progress_shown
from training.embedder.pictures import Picture
from training.embedder.views import ViewMaker
from training.networks import Normalise

_BATCH = 32
PLAIN = 0  # the number of the view that the service sees; random views count from 1


class Trunk:
    """The untouched part, run on pixels; by ONNX Runtime on CPU, where it is three times as fast as eager torch."""

    def __init__(self, trunk: nn.Module, preprocess: Preprocess, device: torch.device, threads: int) -> None:
        self.module, self.device = WithNormalisation(trunk, preprocess).eval().to(device), device
        self.key = _weights_hash(self.module)
        self._threads = threads
        self._session: Any = None

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        """Return the trunk's output for `(n, h, w, 3)` uint8, rounded to float16."""
        if self.device.type == "cuda":
            with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
                output: Tensor = self.module(torch.from_numpy(pixels).to(self.device))
            return output.to(torch.float16).cpu().numpy()
        if self._session is None:
            self._session = _onnx_session(self.module, pixels.shape[1:], self._threads)
        return self._session.run(None, {"pixels": pixels})[0].astype(np.float16)


class WithNormalisation(nn.Module):
    """A trunk that takes uint8 pixels."""

    def __init__(self, trunk: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.normalise, self.trunk = Normalise(preprocess), trunk

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the trunk's output for `(n, h, w, 3)` uint8."""
        return self.trunk(self.normalise(pixels))


def _onnx_session(module: nn.Module, shape: tuple[int, ...], threads: int) -> Any:
    pixels = torch.zeros(2, *shape, dtype=torch.uint8)
    program = torch.export.export(module, (pixels,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations are not the user's
        exported = torch.onnx.export(program, input_names=["pixels"], opset_version=20, verbose=False)
    exported.save(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the machine may be shared
    return onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])


def _weights_hash(module: nn.Module) -> str:
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


class MapCache:
    """The maps `(n, ...)` float16 of pictures in one view, in a file that is whole or is gone on with."""

    def __init__(self, folder: Path, trunk: Trunk, views: ViewMaker, views_key: str) -> None:
        """`views_key` names everything that decides what a view looks like."""
        self._folder, self._trunk, self._views, self._views_key = folder, trunk, views, views_key

    def maps(self, name: str, pictures: Sequence[Picture], view: int) -> NDArray[np.float16]:
        """Return the maps of a view of all pictures, from the file or computed now; `name` is what progress says.

        Raises:
            SetupError: naming the picture that cannot be read, and the line that lists it.
        """
        path = self._path(name, pictures, view)
        if not path.exists():
            self._compute(f"{name}, view {view}", path, pictures, view)
        return np.load(path, mmap_mode="r")

    def _path(self, name: str, pictures: Sequence[Picture], view: int) -> Path:
        listed = [f"{p.path.resolve()} {p.set_name} {p.class_id} {p.path.stat().st_size}" for p in pictures]
        key = json.dumps([self._trunk.key, self._views_key, view, listed])
        return self._folder / f"{name}-{view:02}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"

    def _compute(self, title: str, path: Path, pictures: Sequence[Picture], view: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Parts are whole or not there; the last step joins them.
        parts = [path.with_suffix(f".{start}.part.npy") for start in range(0, len(pictures), 32 * _BATCH)]
        with progress_shown(title, len(pictures)) as advance:
            for number, part in enumerate(parts):
                chunk = pictures[number * 32 * _BATCH : (number + 1) * 32 * _BATCH]
                if not part.exists():
                    _write(part, np.concatenate([self._run(batch, view) for batch in _batches(chunk)]))
                advance(len(chunk))
        _write(path, np.concatenate([np.load(part) for part in parts]))
        for part in parts:
            part.unlink()

    def _run(self, pictures: Sequence[Picture], view: int) -> NDArray[np.float16]:
        shown = [
            self._views.plain(picture) if view == PLAIN else self._views.view(picture, view) for picture in pictures
        ]
        return self._trunk.run(np.stack(shown))


def _batches(pictures: Sequence[Picture]) -> list[Sequence[Picture]]:
    return [pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH)]


def _write(path: Path, values: NDArray[np.float16]) -> None:
    if not np.isfinite(values).all():
        raise SetupError(f"{path.name}: values beyond what float16 holds; set views.cached to 0")
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, values)
    partial.replace(path)
