"""What the handlers report to Prometheus: requests by status, stage seconds, the index in use, circuits."""

from typing import Any, Protocol

from lookalike.circuit import CircuitState

REQUESTS = "lookalike_requests_total"
STAGE_SECONDS = "lookalike_stage_seconds"
INDEX_ITEMS = "lookalike_index_items"
CIRCUIT_OPEN = "lookalike_circuit_open"
CIRCUIT_OPENED = "lookalike_circuit_opened_total"

# TorchServe sends metrics as text lines: these characters part its fields, and a wrong line is dropped whole.
_UNSAFE = str.maketrans(dict.fromkeys(",:|#\n\r", "_"))


class _Series(Protocol):
    def add_or_update(self, value: float, dimension_values: list[str], request_id: str = "") -> None: ...


class RequestMetrics:
    """Emits the metrics that docker/metrics.yaml declares; does nothing where TorchServe's metrics are absent.

    Each emission is one line on the worker's stdout, about 30 microseconds. Keep one instance for a worker's life:
    it remembers the index version and the circuits that it reported last.
    """

    def __init__(self, context_metrics: Any | None) -> None:
        """Look the metrics up in `context.metrics`.

        Raises:
            KeyError: when the server runs with a metrics.yaml that does not declare one of them.
        """
        self._requests: _Series | None = None
        self._stage_seconds: _Series | None = None
        self._index_items: _Series | None = None
        self._circuit_open: _Series | None = None
        self._circuit_opened: _Series | None = None
        self._version: str | None = None
        self._circuits: dict[str, CircuitState] = {}
        if context_metrics is not None:
            declared = {name: series for kind in context_metrics.cache.values() for name, series in kind.items()}
            self._requests = declared[REQUESTS]
            self._stage_seconds = declared[STAGE_SECONDS]
            self._index_items = declared[INDEX_ITEMS]
            self._circuit_open = declared[CIRCUIT_OPEN]
            self._circuit_opened = declared[CIRCUIT_OPENED]

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

    def circuit(self, stage: str, state: CircuitState) -> None:
        """Report the circuit to a stage's model servers when it opened or closed, and once at the start."""
        if self._circuit_open is None or self._circuit_opened is None or state == self._circuits.get(stage):
            return
        before = self._circuits.get(stage, CircuitState(False, 0))
        self._circuits[stage] = state
        self._circuit_open.add_or_update(int(state.is_open), [_label(stage)])
        if state.opened > before.opened:
            self._circuit_opened.add_or_update(state.opened - before.opened, [_label(stage)])


def _label(value: str) -> str:
    return value.translate(_UNSAFE)
