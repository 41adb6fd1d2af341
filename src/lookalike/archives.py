"""Builds the model archives (`.mar`) that TorchServe loads, from models.yaml, the built models and the handlers."""

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lookalike.errors import SetupError
from lookalike.model_store import ModelEntry, load_entries

CONFIG_FILE = "model-config.yaml"


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
        built = [] if self.model_dir is None else sorted(path for path in self.model_dir.iterdir() if path.is_file())
        return [self.handler, self.config, *built]

    def digest(self) -> str:
        """Return a sha256 that changes when the archive would: contents, names, version."""
        total = hashlib.sha256(f"{self.name} {self.version}\n".encode())
        for path in self.files():
            with path.open("rb") as file:
                total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return total.hexdigest()


def build_archives(sources: ArchiveSources, out_dir: Path) -> dict[str, Path]:
    """Return the archive of every model in models.yaml by its name, building those whose parts have changed.

    Raises:
        SetupError: naming the file that is missing, or with what the archiver said.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    entries = load_entries(sources.model_store / "models.yaml")
    return {name: _build(_parts(name, entry, sources), out_dir) for name, entry in entries.items()}


def _parts(name: str, entry: ModelEntry, sources: ArchiveSources) -> _Parts:
    has_weights = entry.architecture is not None
    parts = _Parts(
        name=name,
        version=entry.version,
        handler=sources.handlers / entry.handler,
        config=sources.model_store / name / CONFIG_FILE,
        model_dir=sources.models / name if has_weights else None,
    )
    for needed in (parts.handler, parts.config):
        if not needed.is_file():
            raise SetupError(f"model {name} has no {needed}")
    if parts.model_dir is not None and not parts.model_dir.is_dir():
        raise SetupError(f"model {name} is not built: there is no {parts.model_dir}", allowed="make models")
    return parts


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
