"""The embedder of a bulk run, as it travels to the machines that prepare and embed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Self

from pydantic import BaseModel, Field

from lookalike.archives import unpack_archive
from lookalike.bulk.parts import Prepare
from lookalike.config import ImageLimits, ModelSettings
from lookalike.errors import SetupError
from lookalike.image_embedder import WholeImageEmbedder
from lookalike.ingest import ImageEmbedder
from lookalike.model_store import read_built_model, read_preprocess


@dataclass(frozen=True)
class BulkEmbedder:
    """What a run needs of an embedder; `prepare` and `load` travel to the machines of the cluster."""

    name: str
    fingerprint: str
    dim: int
    preparation: str
    prepare: Prepare
    load: Callable[[ModelSettings], ImageEmbedder]

    @classmethod
    def of_model(cls, path: Path) -> Self:
        """Describe the built embedder in a folder or an archive that every machine has under the same path.

        Raises:
            SetupError: for a missing, altered or foreign model.
        """
        with TemporaryDirectory(prefix="lookalike-embedder-") as work:
            folder = _unpacked(path, Path(work))
            built, preprocess = read_built_model(folder), read_preprocess(folder)
        if built.dim is None:
            raise SetupError(f"{path} holds {built.name!r}, which is no embedder: model.json names no dim")
        name = f"{built.architecture} {built.version}"
        load = partial(_load, path.absolute())
        return cls(name, built.fingerprint, built.dim, WholeImageEmbedder.preparation, preprocess.fit, load)


class BulkOptions(BaseModel, extra="forbid", frozen=True):
    """How a run goes about its work; none of it changes what is written, but for `part_items`."""

    part_items: Annotated[int, Field(ge=1, le=8192)] = 512
    threads: Annotated[int, Field(ge=1)] = 4  # that read and decode in a task
    batch_images: Annotated[int, Field(ge=1, le=64)] = 32
    actors: Annotated[int, Field(ge=1)] = 1
    cpus_per_actor: Annotated[float, Field(gt=0)] = 1
    gpus_per_actor: Annotated[float, Field(ge=0)] = 0
    limits: ImageLimits = ImageLimits()


def _load(path: Path, settings: ModelSettings) -> ImageEmbedder:
    with TemporaryDirectory(prefix="lookalike-embedder-") as work:
        return WholeImageEmbedder.load(_unpacked(path, Path(work)), settings)


def _unpacked(path: Path, work_dir: Path) -> Path:
    return unpack_archive(path, work_dir / "embedder") if path.suffix == ".mar" else path
