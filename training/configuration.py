"""Reads a training configuration: YAML, validated by the task's own model.

A file may begin with `extends: other.yaml`, beside it: it then says only what it says otherwise, at any depth.
"""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from lookalike.errors import SetupError, wrong_fields

M = TypeVar("M", bound=BaseModel)


def read_config(path: Path, model: type[M]) -> M:
    """Read `path` as a `model`.

    Raises:
        SetupError: when it is missing, not YAML, or says something that it may not.
    """
    try:
        return model.model_validate(_read(path))
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise SetupError(f"{path}: is not YAML ({error})") from error
    except ValidationError as error:
        wrong = wrong_fields(error)
        raise SetupError(f"{path}: {wrong}") from error


def _read(path: Path) -> Any:
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(own, dict) or "extends" not in own:
        return own
    other = path.parent / str(own.pop("extends"))
    try:
        return _merged(_read(other), own)
    except OSError as error:
        raise SetupError(f"{path}: extends {other}, which cannot be read ({error.strerror})") from error


def _merged(base: Any, own: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    return base | {key: _merged(base.get(key), value) for key, value in own.items()}
