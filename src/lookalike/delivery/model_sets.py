"""A set of model archives under one URL of a store: pushed once, pulled whole."""

import zipfile
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from lookalike import __version__
from lookalike.archives import archived_version
from lookalike.delivery.store import Store
from lookalike.delivery.transfer import fetch_file, send_file
from lookalike.errors import SetupError, StoreDamaged, StoreMissing, StoreMoved, wrong_fields
from lookalike.index.durable import replace_file, sha256_of
from lookalike.index.manifest import FileEntry
from lookalike.model_store import MODEL_FILE, BuiltModel

SET_FILE = "models.json"
EMBEDDER = "embedder"
_SUFFIX = ".mar"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]


class ArchiveEntry(FileEntry):
    """One archive of a set; the router's has no model inside, hence no fingerprint."""

    version: str
    fingerprint: str | None = None


class ModelSet(BaseModel, extra="forbid", frozen=True):
    """What a set holds: its archives by name, and the version of Lookalike that packed them."""

    lookalike: str
    archives: dict[Name, ArchiveEntry]

    @property
    def embedder_fingerprint(self) -> str:
        """The fingerprint of the embedder in the set.

        Raises:
            SetupError: the set has no embedder.
        """
        entry = self.archives.get(EMBEDDER)
        if entry is None or entry.fingerprint is None:
            raise SetupError("the set of models has no embedder", allowed=sorted(self.archives))
        return entry.fingerprint


def push_models(archives_dir: Path, store: Store) -> ModelSet:
    """Put every archive of `archives_dir` into the store, and last the file that names them.

    Raises:
        SetupError: there is no archive, or one cannot be read.
        StoreMoved: the URL holds another set: a set that is in use somewhere never changes.
    """
    paths = sorted(archives_dir.glob(f"*{_SUFFIX}"))
    if not paths:
        raise SetupError(f"{archives_dir} holds no model archive (*{_SUFFIX})", allowed="lookalike archives")
    pushed = ModelSet(lookalike=__version__, archives={path.stem: _entry(path) for path in paths})
    data = pushed.model_dump_json(indent=2).encode() + b"\n"
    # Asked first: nothing of another set must get under this URL.
    if store.read_if_there(SET_FILE) not in (None, data):
        raise StoreMoved(f"{store.url} holds another set of models already: push to a URL of its own")
    for path in paths:
        send_file(store, path, _object_name(path.stem, pushed.archives[path.stem]))
    store.put_new(SET_FILE, data)
    return pushed


def pull_models(store: Store, into: Path) -> tuple[ModelSet, int]:
    """Get the set into the folder `into`; return it and how many archives had to be fetched.

    `into` gets its archives' names when all of them are there and whole, and `models.json` after them.

    Raises:
        StoreMissing: the URL holds no set, or lacks an archive of it.
        StoreDamaged: an archive, or the set's own file, is not what it should be.
        StoreUnreachable: what was got so far stays for the next attempt.
    """
    data = _set_data(store)
    pulled = _parsed(data, f"{store.url}/{SET_FILE}")
    arriving = into / ".arriving"
    missing = {name: entry for name, entry in pulled.archives.items() if not _is_there(into, name, entry)}
    for name, entry in missing.items():
        fetch_file(store, _object_name(name, entry), arriving / _object_name(name, entry), entry)
    for name, entry in missing.items():
        (arriving / _object_name(name, entry)).replace(into / f"{name}{_SUFFIX}")
    if arriving.exists():
        _empty(arriving)
    replace_file(into / SET_FILE, data)
    return pulled, len(missing)


def read_set(archives_dir: Path) -> ModelSet:
    """Return the set that was pulled into `archives_dir`, or what lies there as one.

    Raises:
        SetupError: there are no models.
    """
    path = archives_dir / SET_FILE
    if path.is_file():
        return _parsed(path.read_bytes(), str(path))
    archive = archives_dir / f"{EMBEDDER}{_SUFFIX}"
    if not archive.is_file():
        raise SetupError(f"{archives_dir} holds neither {SET_FILE} nor {archive.name}", allowed="lookalike models pull")
    return ModelSet(lookalike=__version__, archives={EMBEDDER: _entry(archive)})


def verified_archives(archives_dir: Path) -> dict[str, Path]:
    """Return the archives of `archives_dir` by name, those of a pulled set once their bytes are checked again.

    Raises:
        SetupError: there is none.
        StoreDamaged: one is missing or not what `models.json` says.
    """
    path = archives_dir / SET_FILE
    entries = _parsed(path.read_bytes(), str(path)).archives if path.is_file() else {}
    for name, entry in entries.items():
        if not _is_there(archives_dir, name, entry):
            raise StoreDamaged(f"{archives_dir / name}{_SUFFIX} is missing or damaged: {SET_FILE} names another digest")
    archives = {found.stem: found for found in sorted(archives_dir.glob(f"*{_SUFFIX}"))}
    if not archives:
        raise SetupError(f"{archives_dir} holds no model archive (*{_SUFFIX})", allowed="lookalike models pull")
    return {name: archives[name] for name in entries or archives}


def _set_data(store: Store) -> bytes:
    try:
        return store.read(SET_FILE)
    except StoreMissing as error:
        raise StoreMissing(f"{store.url} holds no models: {error.message}", allowed="lookalike models push") from error


def _parsed(data: bytes, place: str) -> ModelSet:
    try:
        return ModelSet.model_validate_json(data)
    except ValidationError as error:
        raise StoreDamaged(f"{place} names no set of models: {wrong_fields(error)}") from error


def _is_there(into: Path, name: str, entry: ArchiveEntry) -> bool:
    path = into / f"{name}{_SUFFIX}"
    return path.is_file() and path.stat().st_size == entry.bytes and sha256_of(path) == entry.sha256


def _object_name(name: str, entry: ArchiveEntry) -> str:
    return f"{name}-{entry.version}-{entry.sha256[:16]}{_SUFFIX}"


def _entry(archive: Path) -> ArchiveEntry:
    version = archived_version(archive)
    try:
        with zipfile.ZipFile(archive) as packed:
            model = packed.read(MODEL_FILE) if MODEL_FILE in packed.namelist() else None
        fingerprint = None if model is None else BuiltModel.model_validate_json(model).fingerprint
    except (OSError, zipfile.BadZipFile, ValidationError) as error:
        raise SetupError(f"{archive} is no model archive: {error}") from error
    size = archive.stat().st_size
    return ArchiveEntry(sha256=sha256_of(archive), bytes=size, version=version, fingerprint=fingerprint)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
