"""Builds the model archives (`.mar`) that TorchServe loads, from models.yaml, the built models and the handlers.

A built model that models.yaml does not list is packed, too, when its model.json names a handler: a trained label task.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from lookalike.errors import SetupError
from lookalike.model_store import MODEL_FILE, BuiltModel, ModelEntry, load_entries, read_built_model

CONFIG_FILE = "model-config.yaml"
TASK_CONFIG_DIR = "label_task"  # in model_store/: the settings that all label tasks share


@dataclass(frozen=True)
class ArchiveSources:
    """Where an archive's parts lie: `model_store/`, the built models (`var/models/`) and `handlers/`."""

    model_store: Path
    models: Path
    handlers: Path

    @classmethod
    def of(cls, root: Path) -> "ArchiveSources":
        """Return the sources inside a checkout."""
        return cls(root / "model_store", root / "var/models", root / "handlers")


@dataclass(frozen=True)
class _Parts:
    """One archive's files; `model_dir` is None for a model without weights."""

    name: str
    version: str
    handler: Path
    config: Path
    model_dir: Path | None

    def files(self) -> list[Path]:
        """Return every file that goes in, in a fixed order."""
        built = [] if self.model_dir is None else sorted(path for path in self.model_dir.rglob("*") if path.is_file())
        return [self.handler, self.config, *built]

    def digest(self) -> str:
        """Return a sha256 that changes when the archive would: contents, names, version."""
        total = hashlib.sha256(f"{self.name} {self.version}\n".encode())
        for path in self.files():
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.parent.name}/{path.name} {sha256}\n".encode())
        return total.hexdigest()


def build_archives(sources: ArchiveSources, out_dir: Path) -> dict[str, Path]:
    """Return the archive of every model in models.yaml and of every label task by name, building what has changed.

    Raises:
        SetupError: naming the file that is missing, or with what the archiver said.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    entries = load_entries(sources.model_store / "models.yaml")
    parts = [_parts(name, entry, sources) for name, entry in entries.items()]
    parts += [_task_parts(name, task, sources) for name, task in exported_tasks(sources.models, entries).items()]
    return {one.name: _build(one, out_dir) for one in parts}


def unpack_archive(archive: Path, into: Path) -> Path:
    """Unpack a model archive; return `into`.

    Raises:
        SetupError: when it is missing or damaged.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(into)
    except FileNotFoundError as error:
        raise SetupError(f"there is no {archive}", allowed="make archives") from error
    except (OSError, zipfile.BadZipFile) as error:
        raise SetupError(f"{archive} cannot be unpacked: {error}") from error
    return into


def archived_version(archive: Path) -> str:
    """Return the version under which TorchServe serves an archive's model.

    Raises:
        SetupError: when it is missing or no archive.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            manifest = packed.read("MAR-INF/MANIFEST.json")
        return _Manifest.model_validate_json(manifest).model.modelVersion
    except FileNotFoundError as error:
        raise SetupError(f"there is no {archive}", allowed="make archives") from error
    except (OSError, KeyError, zipfile.BadZipFile, ValidationError) as error:
        raise SetupError(f"{archive} is no model archive: {error}") from error


class _Model(BaseModel):  # as the archiver writes it
    modelVersion: Annotated[str, Field(pattern=r"^[\w.-]+$")]


class _Manifest(BaseModel):
    model: _Model


def exported_tasks(models: Path, listed: Collection[str]) -> dict[str, BuiltModel]:
    """Return the label tasks among the built models by name; those that models.yaml has `listed` are none.

    Raises:
        SetupError: for a malformed model.json.
    """
    folders = (path.parent for path in sorted(models.glob(f"[!.]*/{MODEL_FILE}")))
    built = {folder.name: read_built_model(folder) for folder in folders if folder.name not in listed}
    return {name: model for name, model in built.items() if model.handler is not None}


def _parts(name: str, entry: ModelEntry, sources: ArchiveSources) -> _Parts:
    has_weights = entry.architecture is not None
    parts = _Parts(
        name=name,
        version=entry.version,
        handler=sources.handlers / entry.handler,
        config=sources.model_store / name / CONFIG_FILE,
        model_dir=sources.models / name if has_weights else None,
    )
    _check_given(parts)
    if parts.model_dir is not None and not parts.model_dir.is_dir():
        raise SetupError(f"model {name} is not built: there is no {parts.model_dir}", allowed="make models")
    return parts


def _task_parts(name: str, task: BuiltModel, sources: ArchiveSources) -> _Parts:
    parts = _Parts(
        name=name,
        version=task.version,
        handler=sources.handlers / str(task.handler),
        config=sources.model_store / TASK_CONFIG_DIR / CONFIG_FILE,
        model_dir=sources.models / name,
    )
    _check_given(parts)
    return parts


def _check_given(parts: _Parts) -> None:
    for needed in (parts.handler, parts.config):
        if not needed.is_file():
            raise SetupError(f"model {parts.name} has no {needed}")


def _build(parts: _Parts, out_dir: Path) -> Path:
    archive, stamp = out_dir / f"{parts.name}.mar", out_dir / f"{parts.name}.mar.sources"
    digest = parts.digest()
    if archive.is_file() and stamp.is_file() and stamp.read_text() == digest:
        return archive
    # The archiver works in <temporary folder>/<model name>, which two runs would share.
    with tempfile.TemporaryDirectory(prefix=".building-", dir=out_dir) as private:
        _run_archiver(parts, Path(private))
        stamp.unlink(missing_ok=True)
        os.replace(Path(private) / archive.name, archive)
    stamp.write_text(digest)
    return archive


def _run_archiver(parts: _Parts, private: Path) -> None:
    command = [sys.executable, "-m", "model_archiver.model_packaging"]
    command += ["--model-name", parts.name, "--version", parts.version, "--export-path", "."]
    command += ["--handler", str(parts.handler.resolve()), "--config-file", str(parts.config.resolve())]
    # Weights hardly compress; stored, they are packed and unpacked about ten times as fast.
    command += ["--archive-format", "zip-store"]
    if parts.model_dir is not None:
        # A relative name: the archiver would read a comma or a star in the real path as a list or a pattern.
        (private / "files").symlink_to(parts.model_dir.resolve(), target_is_directory=True)
        command += ["--extra-files", "files"]
    temporary = private / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    done = subprocess.run(command, cwd=private, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(f"the archive of model {parts.name} cannot be built: {done.stderr.strip()}")
