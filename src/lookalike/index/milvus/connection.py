"""The connection to a Milvus server or file, and its failures told in this package's errors."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lookalike.config import MilvusSettings
from lookalike.errors import IndexUnavailable, SetupError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

_UNREACHABLE_RETRY_S = 5.0
# After an outage gRPC waits up to two minutes before it looks again.
_GRPC_OPTIONS = {"grpc.initial_reconnect_backoff_ms": 200, "grpc.max_reconnect_backoff_ms": 1000}
_AFTER_DELETION_S = 10.0  # servers tick five times a second


class MilvusConnection:
    """A client of one database, with the settings that every call needs; safe to use from several threads."""

    def __init__(self, settings: MilvusSettings) -> None:
        """Connect.

        Raises:
            SetupError: the extra `milvus` is not installed, or the address is not understood.
            IndexUnavailable: nothing answers there, or it refuses the token.
        """
        self.settings = settings
        self._strong_until_s = 0.0
        self.client = _connected(settings)

    @contextmanager
    def told(self, doing: str) -> Iterator[None]:
        """Turn a failure of the client into an IndexUnavailable that says what was being done, and where.

        Raises:
            IndexUnavailable: the call failed.
        """
        with _told(self.settings, doing):
            yield

    @property
    def call(self) -> dict[str, Any]:
        """The arguments of every call: how long it may take."""
        return {"timeout": self.settings.timeout_s}

    @property
    def read(self) -> dict[str, Any]:
        """The arguments of every call that reads items."""
        level = self.settings.consistency_level
        if level == "Session" and time.monotonic() < self._strong_until_s:
            level = "Strong"
        return {**self.call, "consistency_level": level}

    def note_deletion(self) -> None:
        """Read as strictly as can be for a while: servers do not tell the time of a deletion, which a session needs."""
        self._strong_until_s = time.monotonic() + _AFTER_DELETION_S

    def close(self) -> None:
        """Close the connection; a file stays open until the process ends."""
        self.client.close()


def _connected(settings: MilvusSettings) -> "MilvusClient":
    try:
        from pymilvus import MilvusClient
    except ImportError as error:
        raise SetupError(f"an index in Milvus needs the extra `milvus`: {error}") from error
    # They log each failed call with a traceback; the error that is raised says the same in one line.
    loggers = ["pymilvus"] if settings.is_server else ["pymilvus", "milvus_lite", "grpc._server"]
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not settings.is_server:
        if settings.file.suffix != ".db":
            raise SetupError(
                f"{settings.uri!r} is no address of Milvus", "http://host:port, or a file that ends in .db"
            )
        settings.file.parent.mkdir(parents=True, exist_ok=True)
    opening = "connecting" if settings.is_server else "opening the file, which is for one process at a time"
    with _told(settings, opening):
        token = settings.token.get_secret_value()
        return MilvusClient(
            uri=settings.uri,
            token=token,
            db_name=settings.database,
            timeout=settings.timeout_s,
            dedicated=True,  # shared ones are told apart by their options, which cannot be hashed
            grpc_options=_GRPC_OPTIONS,
        )


@contextmanager
def _told(settings: MilvusSettings, doing: str) -> Iterator[None]:
    import grpc
    from pymilvus import MilvusException

    try:
        yield
    except (MilvusException, grpc.RpcError, OSError) as error:
        reason = getattr(error, "message", None) or str(error) or repr(error)
        first_line = str(reason).strip().splitlines()[0]
        raise IndexUnavailable(
            f"Milvus at {settings.uri} failed while {doing}: {first_line}", retry_after_s=_UNREACHABLE_RETRY_S
        ) from error
