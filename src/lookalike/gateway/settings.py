"""The settings of the gateway."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, IPvAnyNetwork
from pydantic_settings import SettingsConfigDict

from lookalike.config import ImageLimits, Settings
from lookalike.gateway.keys import ApiKey, read_key
from lookalike.gateway.rates import Rate

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


def _read_rate(given: object) -> object:
    return (Rate.parse(given) if given else None) if isinstance(given, str) else given


# `600/minute`; empty: no limit.
OptionalRate = Annotated[Rate | None, BeforeValidator(_read_rate)]
Key = Annotated[ApiKey, BeforeValidator(lambda given: read_key(given) if isinstance(given, str) else given)]


class GatewaySettings(Settings):
    """The gateway (environment prefix `LOOKALIKE_GATEWAY_`); lists are JSON there."""

    model_config = SettingsConfigDict(env_prefix="LOOKALIKE_GATEWAY_")

    host: str = "127.0.0.1"
    port: Port = 8090  # 0: the operating system chooses
    upstream_url: str = "http://127.0.0.1:8080"
    web_dir: Path = Path("web")
    index_dir: Path = Path("var/index")
    catalogue_roots: tuple[
        Path, ...
    ] = ()  # folders that thumbnails may be made from, besides the images sent to /items
    samples: Annotated[int, Field(ge=0, le=48)] = 8  # items that are offered to search by; 0: none
    label_tasks: tuple[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}(:[0-9.]{1,16})?$")], ...] = ()
    cache_dir: Path = Path("var/cache/thumbnails")
    cache_bytes: Annotated[int, Field(ge=0)] = 256_000_000
    threads: Annotated[int, Field(ge=1)] = 2  # that decode and resize

    keys: tuple[Key, ...] = ()
    rate: OptionalRate = Rate(600, 60)
    thumbnail_rate: OptionalRate = Rate(6000, 60)
    max_in_flight: Annotated[int, Field(ge=1)] = 32
    max_in_flight_per_client: Annotated[int, Field(ge=1)] = 16
    trusted_proxies: tuple[str, ...] = ()  # whose X-Forwarded-For names the client's address
    cors_origins: tuple[str, ...] = ()

    max_body_bytes: Annotated[int, Field(gt=0)] = 28_000_000  # as max_request_size of the server behind
    max_header_bytes: Annotated[int, Field(ge=1024)] = 16_384
    header_timeout_s: Seconds = 10
    chunk_timeout_s: Seconds = 10  # between two parts of a body
    body_timeout_s: Seconds = 120  # for the whole body
    send_timeout_s: Seconds = 60  # for a client that reads its answer slowly
    deadline_ms: Annotated[float, Field(gt=0)] = 10_000  # for the server behind, its queue included
    keep_connections: bool = True  # for the next request to the server behind
    max_connections: Annotated[int, Field(ge=1)] = 64
    max_response_bytes: Annotated[int, Field(gt=0)] = 16_000_000
    health_cache_s: Annotated[float, Field(ge=0)] = 2
    health_timeout_s: Seconds = 4  # for the server behind to say whether it is ready
    drain_s: Seconds = 30

    image_url: bool = False
    image_url_timeout_s: Seconds = 5
    image_url_max_redirects: Annotated[int, Field(ge=0)] = 3
    image_url_ports: tuple[Port, ...] = (80, 443)
    image_url_networks: tuple[IPvAnyNetwork, ...] = ()  # private ones that may be fetched from all the same
    limits: ImageLimits = ImageLimits()

    edit_window_ms: Annotated[float, Field(ge=0)] = 100  # edits that arrive together are published together
    max_batch_items: Annotated[int, Field(ge=1)] = 256
    max_waiting_edits: Annotated[int, Field(ge=1)] = 1024
