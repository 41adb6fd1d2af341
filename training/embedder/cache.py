"""What the untrained part of the network says of each picture's views, computed once, kept on disk, resumable."""

import copy
import hashlib
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lookalike.errors import SetupError
from lookalike.preprocessing import Preprocess
from lookalike.progress import progress_shown
from training.embedder.network import TailedEmbedder
from training.embedder.pictures import Picture
from training.embedder.views import ViewMaker
from training.networks import Normalise

_BATCH = 32
_PART = 32 * _BATCH  # pictures that a kill loses at most
PLAIN = 0  # the number of the view that the service sees; random views count from 1


class Seen(NamedTuple):
    """What the untouched network makes of `n` views, rounded to float16."""

    maps: NDArray[np.float16]  # (n, ...): the trunk's output, which the tail is trained on
    features: NDArray[np.float16]  # (n, feature_dim): the pooled output of the whole


class Trunk:
    """The untouched network, run on pixels; by ONNX Runtime on CPU, where it is three times as fast as eager torch."""

    def __init__(self, network: TailedEmbedder, preprocess: Preprocess, device: torch.device, threads: int) -> None:
        """Copy what `network` is made of before it is trained."""
        self.module, self.device = UntouchedNetwork(network, preprocess).eval().to(device), device
        self.key = _weights_hash(self.module)
        self._threads = threads
        self._session: Any = None

    def run(self, pixels: NDArray[np.uint8]) -> Seen:
        """Return what the network makes of `(n, h, w, 3)` uint8."""
        if self.device.type == "cuda":
            with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
                outputs = self.module(torch.from_numpy(pixels).to(self.device))
            return Seen(*(output.to(torch.float16).cpu().numpy() for output in outputs))
        if self._session is None:
            self._session = _onnx_session(self.module, pixels.shape[1:], self._threads)
        return Seen(*(output.astype(np.float16) for output in self._session.run(None, {"pixels": pixels})))


class UntouchedNetwork(nn.Module):
    """A copy of an untrained embedder's trunk and features, which takes uint8 pixels."""

    def __init__(self, network: TailedEmbedder, preprocess: Preprocess) -> None:
        super().__init__()
        self.normalise, self.network = Normalise(preprocess), copy.deepcopy(network)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the trunk's output and the pooled features for `(n, h, w, 3)` uint8."""
        maps = self.network.trunk(self.normalise(pixels))
        return maps, self.network.plain_features(maps)


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
    """What the untouched network makes of pictures in one view, in files that are whole or are gone on with."""

    def __init__(self, folder: Path, trunk: Trunk, views: ViewMaker, views_key: str) -> None:
        """`views_key` names everything that decides what a view looks like."""
        self._folder, self._trunk, self._views, self._views_key = folder, trunk, views, views_key

    def seen(self, name: str, pictures: Sequence[Picture], view: int) -> Seen:
        """Return what a view of all pictures gives, from the files or computed now; `name` is what progress says.

        Raises:
            SetupError: naming the picture that cannot be read, and the line that lists it.
        """
        paths = self._paths(name, pictures, view)
        if not all(path.exists() for path in paths):
            self._compute(f"{name}, view {view}", paths, pictures, view)
        return Seen(*(np.load(path, mmap_mode="r") for path in paths))

    def _paths(self, name: str, pictures: Sequence[Picture], view: int) -> list[Path]:
        listed = [f"{p.path.resolve()} {p.set_name} {p.class_id} {p.path.stat().st_size}" for p in pictures]
        key = json.dumps([self._trunk.key, self._views_key, view, listed])
        stem = f"{name}-{view:02}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        return [self._folder / f"{stem}.{part}.npy" for part in Seen._fields]

    def _compute(self, title: str, paths: list[Path], pictures: Sequence[Picture], view: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Parts are whole or not there; the last step joins them.
        parts = [[path.with_suffix(f".{n}.part.npy") for path in paths] for n in range(0, len(pictures), _PART)]
        with progress_shown(title, len(pictures)) as advance:
            for number, files in enumerate(parts):
                chunk = pictures[number * _PART : (number + 1) * _PART]
                if not all(file.exists() for file in files):
                    seen = [self._run(batch, view) for batch in _batches(chunk)]
                    for file, arrays in zip(files, zip(*seen, strict=True), strict=True):
                        _write(file, np.concatenate(arrays))
                advance(len(chunk))
        for path, files in zip(paths, zip(*parts, strict=True), strict=True):
            _write(path, np.concatenate([np.load(file) for file in files]))
            for file in files:
                file.unlink()

    def _run(self, pictures: Sequence[Picture], view: int) -> Seen:
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
