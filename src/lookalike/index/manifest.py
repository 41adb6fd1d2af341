"""What an index version was built from: the manifest that lies beside its files."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lookalike.errors import IndexDamaged, wrong_fields

FORMAT_VERSION = 2  # 1 knew neither inverted lists nor kinds that follow the count
METRIC, DTYPE = "cosine", "float32"
MANIFEST = "manifest.json"
VECTORS = "vectors.npy"
ITEMS = "items.arrow"

Kind = Literal["flat", "hnsw", "ivf"]
WantedKind = Literal["auto", "flat", "hnsw", "ivf"]
# The file of each kind that has a structure of its own besides the embeddings.
STRUCTURE_FILES: dict[Kind, str] = {"hnsw": "hnsw.faiss", "ivf": "ivf.faiss"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """One file of a version: its size and the sha256 of its content in hex."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class BuildSettings(_Strict):
    """How the version was made.

    `preparation` says what was done to an image before it was embedded; with `kind_by_count` each edit chooses the kind
    anew.
    """

    preparation: str = "none"
    hnsw_m: int | None = None
    ef_construction: int | None = None
    # Left out where it is not so: the digest of a manifest of format 1, which lacks it, must stay what it was.
    kind_by_count: Annotated[bool, Field(exclude_if=lambda value: not value)] = False


class Manifest(_Strict):
    """What the index was built from, and its files with their sha256."""

    format_version: int = FORMAT_VERSION
    version: str
    created: str
    kind: Kind
    metric: str = METRIC
    dtype: str = DTYPE
    embedder: str
    fingerprint: str
    dim: Annotated[int, Field(gt=0)]
    count: Annotated[int, Field(ge=0)]
    attributes: list[str] = []
    build: BuildSettings = BuildSettings()
    files: dict[str, FileEntry]

    def digest(self) -> str:
        """Return the 8 hex digits that end the version's name: they change with every other field."""
        return hashlib.sha256(self.model_dump_json(exclude={"version"}).encode()).hexdigest()[:8]

    def named(self, number: int) -> "Manifest":
        """Return the same manifest under the version name `<number>-<digest>`."""
        return self.model_copy(update={"version": f"{number:06d}-{self.digest()}"})


class _FormatOnly(BaseModel):
    format_version: int


def read_manifest(version_dir: Path) -> Manifest:
    """Read and check the manifest of the version in `version_dir`.

    Raises:
        IndexDamaged: the manifest is missing, unreadable, altered, or of a newer format.
    """
    path = version_dir / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise IndexDamaged(f"index version {version_dir.name}: {MANIFEST} cannot be read: {error}") from error
    _check_format(version_dir.name, text)
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        wrong = wrong_fields(error)
        raise IndexDamaged(f"index version {version_dir.name}: {MANIFEST} is wrong: {wrong}") from error
    if manifest.version != version_dir.name or not manifest.version.endswith(f"-{manifest.digest()}"):
        raise IndexDamaged(f"index version {version_dir.name}: {MANIFEST} was altered: it does not match its name")
    return manifest


def _check_format(version: str, text: str) -> None:
    """Look at the format before anything else: a newer manifest may have fields that are unknown here."""
    try:
        found = _FormatOnly.model_validate_json(text).format_version
    except ValidationError as error:
        raise IndexDamaged(
            f"index version {version}: {MANIFEST} is no manifest: {error.error_count()} errors"
        ) from error
    if found > FORMAT_VERSION:
        raise IndexDamaged(
            f"index version {version} has format {found}, which is newer than this program; "
            f"formats up to {FORMAT_VERSION} are read"
        )
