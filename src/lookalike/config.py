"""The settings of every component: defaults here, a YAML section over them, environment variables over both."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lookalike.errors import SetupError, wrong_fields
from lookalike.index.manifest import WantedKind


class Settings(BaseSettings):
    """A component's settings; an unknown key is an error, never ignored."""

    model_config = SettingsConfigDict(extra="forbid", env_nested_delimiter="__")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, as operators of containers expect."""
        return env_settings, init_settings

    @classmethod
    def load(cls, section: dict[str, Any] | None = None) -> Self:
        """Validate `section` (a YAML mapping) under the environment.

        Raises:
            SetupError: naming each wrong key.
        """
        try:
            return cls(**(section or {}))
        except ValidationError as error:
            wrong = wrong_fields(error)
            allowed = ", ".join(cls.model_fields)
            raise SetupError(f"{cls.__name__}: {wrong}", allowed=allowed) from error


class ImageLimits(BaseModel, extra="forbid"):
    """What `decode_image` accepts; checked before any pixel is decoded."""

    max_bytes: Annotated[int, Field(gt=0)] = 20_000_000
    max_pixels: Annotated[int, Field(gt=0, le=89_000_000)] = 60_000_000  # Pillow takes larger images for an attack
    max_edge_px: Annotated[int, Field(gt=0)] = 16_384


class ModelSettings(Settings):
    """How a model server runs its network (environment prefix `LOOKALIKE_MODEL_`)."""

    model_config = SettingsConfigDict(env_prefix="LOOKALIKE_MODEL_")

    runtime: Literal["auto", "onnx", "openvino", "torch"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=0)] = 0  # 0: one a core
    max_images: Annotated[int, Field(ge=1)] = 64  # in one call, by an array or several parts
    limits: ImageLimits = ImageLimits()


class RouterSettings(Settings):
    """The search router (environment prefix `LOOKALIKE_ROUTER_`)."""

    model_config = SettingsConfigDict(env_prefix="LOOKALIKE_ROUTER_")

    index_engine: Literal["faiss", "milvus"] = "faiss"  # `milvus`: where MilvusSettings say, in place of `index_dir`
    index_dir: Path = Path("var/index")
    # `http`: each model behind its own server, so that they scale apart; `in_process`: no hops, on one machine's cores.
    models: Literal["http", "in_process"] = "http"
    archives_dir: Path = Path("var/archives")  # where `in_process` finds the models
    model_threads: Annotated[int, Field(ge=0)] = 0  # of one forward pass `in_process`; 0: as ModelSettings says
    detector_url: str = "http://127.0.0.1:8080/predictions/detector"
    embedder_url: str = "http://127.0.0.1:8080/predictions/embedder"
    metadata_url: str = "http://127.0.0.1:8080/predictions/metadata_creator"
    deadline_ms: Annotated[float, Field(gt=0)] = 5000
    detect_ms: Annotated[float, Field(gt=0)] = 2000
    embed_ms: Annotated[float, Field(gt=0)] = 2000
    describe_ms: Annotated[float, Field(gt=0)] = 1000
    lookup_ms: Annotated[float, Field(gt=0)] = 1000
    describe_from: Literal["embedder", "crop"] = "embedder"
    min_detection_score: Annotated[float, Field(ge=0, le=1)] = 0.15
    # A JPEG is decoded no larger than the networks can see: this many pixels along the shortest edge of the photo for
    # the detector, and of the subject for the embedder.
    look_px: Annotated[int, Field(ge=1)] = 640
    crop_px: Annotated[int, Field(ge=1)] = 256
    max_connections: Annotated[int, Field(ge=1)] = 64
    resolve_s: Annotated[float, Field(gt=0)] = 1.0  # how old the addresses behind a model's host name may be
    circuit_failures: Annotated[int, Field(ge=0)] = 5  # calls in a row that open a model's circuit; 0: it never opens
    circuit_open_s: Annotated[float, Field(gt=0)] = 2.0  # from then on one call in this time is let through as a probe
    threads: Annotated[int, Field(ge=1)] = 4  # for decoding and look-ups, which release the GIL
    index_poll_s: Annotated[float, Field(gt=0)] = 1.0
    limits: ImageLimits = ImageLimits()


class IndexSettings(Settings):
    """How an index is built and searched (environment prefix `LOOKALIKE_INDEX_`)."""

    model_config = SettingsConfigDict(env_prefix="LOOKALIKE_INDEX_")

    kind: WantedKind = "auto"
    hnsw_m: Annotated[int, Field(ge=4, le=128)] = 32
    ef_construction: Annotated[int, Field(ge=8)] = 200
    ef_search: Annotated[int, Field(ge=8)] = 128
    ivf_probes: Annotated[int, Field(ge=1)] = 256
    search_threads: Annotated[int, Field(ge=1)] = 1  # for one search; concurrent searches each have their own
    keep_versions: Annotated[int, Field(ge=1)] = 3  # the last ones, besides the one in use
    chunk_items: Annotated[int, Field(ge=1)] = 512  # items embedded between two checkpoints of an ingest


class StoreSettings(Settings):
    """How a store is reached (environment prefix `LOOKALIKE_STORE_`)."""

    model_config = SettingsConfigDict(env_prefix="LOOKALIKE_STORE_")

    retry_s: Annotated[float, Field(ge=0)] = 60  # how long a store that cannot be reached is asked again
    timeout_s: Annotated[float, Field(gt=0)] = 20  # for one connection, and for one read of it
    poll_s: Annotated[float, Field(gt=0)] = 10  # how often `follow` looks for a new version
    conditional_puts: bool = True  # off for a server that does not know If-Match and If-None-Match on a PUT


class MilvusSettings(Settings):
    """An index in Milvus (environment prefix `LOOKALIKE_MILVUS_`)."""

    model_config = SettingsConfigDict(env_prefix="LOOKALIKE_MILVUS_")

    uri: str = "http://127.0.0.1:19530"  # or a local file, whose name ends in .db: embedded, for one process at a time
    token: SecretStr = SecretStr("")  # `user:password`, or a key
    database: str = ""  # the server's default when empty
    catalogue: Annotated[str, Field(min_length=1)] = "catalogue"  # the alias that serves
    # `Session`: a process sees its own writes at once, and those of others within about a second; `Strong`: everyone's
    # at once, for which every search waits on the server's clock.
    consistency_level: Literal["Strong", "Session", "Bounded", "Eventually"] = "Session"
    timeout_s: Annotated[float, Field(gt=0)] = 5.0  # for one call
    build_timeout_s: Annotated[float, Field(gt=0)] = 600.0  # for making, flushing and loading a collection
    batch_items: Annotated[int, Field(ge=1, le=16_384)] = 1000  # written or read in one call

    @property
    def is_server(self) -> bool:
        """Whether `uri` is a server's address, not a file."""
        return "://" in self.uri

    @property
    def file(self) -> Path:
        """The file that `uri` names, where it is no server's address."""
        return Path(self.uri)
