"""Reads a training configuration: YAML, validated by the task's own model."""

from pathlib import Path
from typing import TypeVar

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
        return model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise SetupError(f"{path}: is not YAML ({error})") from error
    except ValidationError as error:
        wrong = wrong_fields(error)
        raise SetupError(f"{path}: {wrong}") from error
