"""TorchServe rows <-> requests, errors <-> per-row statuses: the one module that knows TorchServe."""

import http
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from lookalike.config import ModelSettings, Settings
from lookalike.errors import LookalikeError
from lookalike.free_memory import FreeMemory
from lookalike.metrics import RequestMetrics
from lookalike.rows import REPLY_ID_HEADER, REQUEST_ID_HEADER, Reply, Row, error_reply

MAX_REQUEST_ID = 128

logger = logging.getLogger("lookalike.access")
S = TypeVar("S", bound=Settings)


class Service(Protocol):
    """What stands behind a handler."""

    def respond(self, rows: Sequence[Row]) -> list[Reply]:
        """Return one reply a row, in order; never raise."""


def model_dir(context: Any) -> Path:
    """Return the folder that TorchServe unpacked the archive into."""
    return Path(context.system_properties["model_dir"])


def settings_of(context: Any, model: type[S]) -> S:
    """Read the `handler:` section of the model's model-config.yaml.

    Raises:
        SetupError: naming each wrong key.
    """
    section = (context.model_yaml_config or {}).get("handler")
    settings = model.load(section)
    gpu = context.system_properties.get("gpu_id")
    if isinstance(settings, ModelSettings) and settings.device == "auto":
        settings.device = "cpu" if gpu is None else "cuda"
    return settings


def start_logging() -> None:
    """Write the package's log as JSON lines on stderr.

    stdout is left alone: TorchServe reads its metrics there, as `[METRICS]` lines of the root logger.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    package = logging.getLogger("lookalike")
    package.handlers, package.propagate = [handler], False
    package.setLevel(logging.INFO)


class JsonLines(logging.Formatter):
    """One JSON object a record; the fields of a dict argument become keys of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(record.args, Mapping):
            line |= record.args
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Adapter:
    """A handler's batches, answered by a service; lives as long as the worker."""

    def __init__(self, service: Service, context: Any) -> None:
        self._service = service
        self._endpoint = str(context.model_name or "")
        self._metrics = RequestMetrics(context.metrics)
        self._memory = FreeMemory()
        # Metrics and log lines are written behind the reply: no client waits for them.
        self._reports = ThreadPoolExecutor(1, thread_name_prefix="report")

    def answer(self, rows: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Rows in, per-row statuses and bodies out; nothing is ever raised.

        An exception out of `handle` would fail every row of the batch with a fixed body.
        """
        start_s = time.perf_counter()
        requests = [read_row(row, context, i) for i, row in enumerate(rows)]
        replies = self._respond(requests)
        total_ms = (time.perf_counter() - start_s) * 1000
        for i, (request, reply) in enumerate(zip(requests, replies, strict=True)):
            write_reply(reply, request, context, i)
            self._reports.submit(self._report, reply, request, total_ms)
        return [reply.body for reply in replies]

    def _respond(self, requests: list[Row]) -> list[Reply]:
        try:
            return self._service.respond(requests)
        except Exception:
            logger.exception("a batch failed: requests %s", ", ".join(row.request_id for row in requests))
            error = LookalikeError("the request failed; the log has its id")
            return [error_reply(error, row) for row in requests]

    def _report(self, reply: Reply, request: Row, total_ms: float) -> None:
        """Count the reply, time its stages and write its log line."""
        self._memory.give_back()
        for stage, state in reply.circuits.items():
            self._metrics.circuit(stage, state)
        if request.path:
            return  # probes come every few seconds: they would drown what the clients see
        self._metrics.count(self._endpoint, reply.status)
        for stage, elapsed_ms in (reply.stages_ms or {self._endpoint: total_ms}).items():
            self._metrics.stage(stage, elapsed_ms / 1000)
        if reply.index is not None:
            self._metrics.index(reply.index.version, reply.index.count)
        logger.info("request", access_fields(reply, request, self._endpoint, total_ms))


def access_fields(reply: Reply, request: Row, endpoint: str, total_ms: float) -> dict[str, object]:
    """Return what a request's log line says; never anything of the image."""
    fields: dict[str, object] = {
        "request_id": request.request_id,
        "endpoint": endpoint,
        "status": reply.status,
        "code": reply.code,
        "total_ms": round(total_ms, 1),
        "index_version": reply.index.version if reply.index else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def read_row(row: Mapping[str, Any], context: Any, i: int) -> Row:
    """Turn a TorchServe row into a request; multipart parts bring headers of their own, which are left out."""
    headers = {
        str(name).lower(): value for name, value in context.get_all_request_header(i).items() if isinstance(value, str)
    }
    request_id = clean_request_id(headers.get(REQUEST_ID_HEADER)) or context.get_request_id(i) or ""
    body = row.get("body")
    if "body" not in row or len(row) > 1:
        fields = {name: bytes(value) for name, value in row.items() if isinstance(value, (bytes, bytearray))}
        return Row(request_id, headers, fields=fields)
    if isinstance(body, (bytes, bytearray)):
        return Row(request_id, headers, body=bytes(body))
    return Row(request_id, headers, json=body)


def clean_request_id(text: str | None) -> str | None:
    """Return the client's request id, or None where it could break a log line or a header."""
    return text if text and len(text) <= MAX_REQUEST_ID and text.isascii() and text.isprintable() else None


def write_reply(reply: Reply, request: Row, context: Any, i: int) -> None:
    """Set row `i`'s status, content type and headers."""
    if reply.status != 200:
        context.set_response_status(code=reply.status, phrase=http.HTTPStatus(reply.status).phrase, idx=i)
    context.set_response_content_type(i, reply.content_type)
    for name, value in {REPLY_ID_HEADER: request.request_id, **reply.headers}.items():
        context.set_response_header(i, name, value)
