"""Reaches the training code from the command line: it lies in the project's folder, not in the installed package."""

import importlib
import sys
from pathlib import Path
from typing import Any

from lookalike.errors import SetupError


def training_module(name: str, root: Path) -> Any:
    """Import `training.<name>` of the project in `root`.

    Raises:
        SetupError: when there is no project, or a package that training needs is not installed.
    """
    if not (root / "training/__init__.py").is_file():
        raise SetupError(f"{root.resolve()} is not the project's folder: it has no training/", allowed="--root")
    if str(root.resolve()) not in sys.path:
        sys.path.insert(0, str(root.resolve()))
    try:
        return importlib.import_module(f"training.{name}")
    except ModuleNotFoundError as error:
        raise SetupError(f"training needs the package {error.name!r}", allowed="the extra `train`") from error
