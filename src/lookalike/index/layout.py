"""Where the parts of an index folder lie, and which version is in use.

index_dir/CURRENT                   the name of the published version, replaced atomically
index_dir/PREVIOUS                  the last version of the embedder before, while both embedders serve (docs/adr/0011)
index_dir/versions/<version>/       manifest.json, vectors.npy, items.arrow, and hnsw.faiss or ivf.faiss, by the kind
index_dir/embeddings/<embedder>/    embeddings of images that no published version holds yet
index_dir/reports/                  what an ingest could not take, one JSON object a line
index_dir/.lock                     held by the one writer
"""

import re
from pathlib import Path

from lookalike.errors import IndexDamaged, IndexUnavailable
from lookalike.index.durable import replace_file

_VERSION = re.compile(r"^(\d{6,})-[0-9a-f]{8}$")


class IndexLayout:
    """The paths of one index folder."""

    def __init__(self, index_dir: Path) -> None:
        self.index_dir = index_dir
        self.pointer = index_dir / "CURRENT"
        self.previous_pointer = index_dir / "PREVIOUS"
        self.versions_dir = index_dir / "versions"
        self.embeddings_dir = index_dir / "embeddings"
        self.reports_dir = index_dir / "reports"
        self.lock = index_dir / ".lock"

    def current_version(self) -> str | None:
        """Return the name of the published version, or None when nothing was ever published.

        Raises:
            IndexDamaged: CURRENT holds something else.
        """
        return _named_in(self.pointer)

    def previous_version(self) -> str | None:
        """Return the last version of the embedder before that of CURRENT, or None when there is none to serve.

        Raises:
            IndexDamaged: PREVIOUS holds something else.
        """
        return _named_in(self.previous_pointer)

    def published_dir(self) -> Path:
        """Return the folder of the published version.

        Raises:
            IndexUnavailable: nothing was published.
            IndexDamaged: CURRENT names a version that is not there.
        """
        name = self.current_version()
        if name is None:
            raise IndexUnavailable(
                f"no index version is published in {self.index_dir}; build one: lookalike index build"
            )
        return self.version_dir(name)

    def version_dir(self, version: str) -> Path:
        """Return the folder of `version`.

        Raises:
            IndexDamaged: it is not there.
        """
        path = self.versions_dir / version
        if not path.is_dir():
            raise IndexDamaged(f"index version {version} is not in {self.versions_dir}", allowed=self.version_names())
        return path

    def version_names(self) -> list[str]:
        """Return the names of the versions on disk, oldest first."""
        if not self.versions_dir.is_dir():
            return []
        names = [path.name for path in self.versions_dir.iterdir() if path.is_dir() and _VERSION.match(path.name)]
        return sorted(names, key=version_number)

    def point_to(self, version: str) -> None:
        """Make `version` the published one, in one atomic step."""
        replace_file(self.pointer, f"{version}\n".encode())

    def keep_as_previous(self, version: str) -> None:
        """Let routers of the embedder before go on with `version`."""
        replace_file(self.previous_pointer, f"{version}\n".encode())


def _named_in(pointer: Path) -> str | None:
    try:
        return version_in(pointer.read_bytes(), str(pointer))
    except FileNotFoundError:
        return None


def version_in(content: bytes, place: str) -> str:
    """Return the version that a pointer's content names; `place` is where it was read.

    Raises:
        IndexDamaged: it is no version's name.
    """
    name = content.decode(errors="replace").strip()
    if not _VERSION.match(name):
        raise IndexDamaged(f"{place} holds {name[:80]!r}, which is no version name like 000007-1a2b3c4d")
    return name


def version_number(version: str) -> int:
    """Return the running number that a version's name begins with."""
    return int(version.split("-", 1)[0])
