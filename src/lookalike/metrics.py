"""What the handlers report to Prometheus: requests by status, stage seconds, and the index in use."""

from typing import Any, Protocol

REQUESTS = "lookalike_requests_total"
STAGE_SECONDS = "lookalike_stage_seconds"
INDEX_ITEMS = "lookalike_index_items"

# TorchServe sends metrics as text lines: these characters part its fields, and a wrong line is dropped whole.
_UNSAFE = str.maketrans(dict.fromkeys(",:|#\n\r", "_"))


class _Series(Protocol):
    def add_or_update(self, value: float, dimension_values: list[str], request_id: str = "") -> None: ...


class RequestMetrics:
    """Emits the metrics that docker/metrics.yaml declares; does nothing where TorchServe's metrics are absent.

    Each emission is one line on the worker's stdout, about 30 microseconds. Keep one instance for a worker's life:
    it remembers the index version that it reported last.
    """

    def __init__(self, context_metrics: Any | None) -> None:
        """Look the metrics up in `context.metrics`.

        Raises:
            KeyError: when the server runs with a metrics.yaml that does not declare one of them.
        """
        self._requests: _Series | None = None
        self._stage_seconds: _Series | None = None
        self._index_items: _Series | None = None
        self._version: str | None = None
        if context_metrics is not None:
            declared = {name: series for kind in context_metrics.cache.values() for name, series in kind.items()}
            self._requests = declared[REQUESTS]
            self._stage_seconds = declared[STAGE_SECONDS]
            self._index_items = declared[INDEX_ITEMS]

    def count(self, endpoint: str, status: int) -> None:
        """Count one reply of `endpoint` by its HTTP status."""
        if self._requests is not None:
            self._requests.add_or_update(1, [_label(endpoint), str(status)])

    def stage(self, name: str, seconds: float) -> None:
        """Add one observation to the stage's histogram."""
        if self._stage_seconds is not None:
            # Fixed point: the server's parser takes no "+" of an exponent.
            self._stage_seconds.add_or_update(round(seconds, 6), [_label(name)])

    def index(self, version: str, items: int) -> None:
        """Report the index version in use; the one before it falls to 0, as a series cannot be withdrawn."""
        if self._index_items is None or version == self._version:
            return
        if self._version is not None:
            self._index_items.add_or_update(0, [_label(self._version)])
        self._index_items.add_or_update(items, [_label(version)])
        self._version = version


def _label(value: str) -> str:
    return value.translate(_UNSAFE)
