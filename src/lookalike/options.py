"""Options outside of a body: in a query string, and in the `x-lookalike-*` headers that the models read."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from lookalike.errors import InvalidOption, few
from lookalike.rows import DEADLINE_HEADER, OPTION_HEADER, STRUCTURED
from lookalike.schemas import DetectorOptions, EmbedderOptions, NoOptions, SearchOptions, Wire

OPTIONS_OF: dict[str, type[Wire]] = {
    "search": SearchOptions,
    "detector": DetectorOptions,
    "embedder": EmbedderOptions,
    "metadata_creator": NoOptions,
}
IMAGE_URL = "image_url"
_DEADLINE = "deadline_ms"  # of every model
_MAX_FIELDS = 64


def query_fields(query: bytes) -> dict[str, str]:
    """Return the fields of a query string.

    Raises:
        InvalidOption: one comes twice, is no UTF-8, or there are too many.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise InvalidOption(f"the query string cannot be read: {error}") from error
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = sorted({name for name, _ in pairs if [n for n, _ in pairs].count(name) > 1})
        raise InvalidOption(f"in the query string twice: {few(twice)}")
    return fields


def option_headers(model: str, options: Mapping[str, Any], also: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the options (texts of a query string, values of a JSON body) of `model` as headers; `also` are left out.

    Raises:
        InvalidOption: naming those that the model does not have, and those that it has.
    """
    known = [*OPTIONS_OF.get(model, NoOptions).model_fields, _DEADLINE]
    if unknown := sorted(options.keys() - set(known) - set(also)):
        raise InvalidOption(f"unknown options: {few(unknown)}", allowed=[*known, *also])
    return {_header(name): _text(name, value) for name, value in options.items() if name not in also}


def _header(option: str) -> str:
    return DEADLINE_HEADER if option == _DEADLINE else OPTION_HEADER + option.replace("_", "-")


def _text(option: str, value: Any) -> str:
    """Return the value as a header may carry it: printable ASCII; JSON escapes the rest."""
    if option in STRUCTURED:
        return json.dumps(_structure(option, value) if isinstance(value, str) else value)
    text = value if isinstance(value, str) else json.dumps(value)
    if not (text.isascii() and text.isprintable()):
        raise InvalidOption(f"{option} is {text!a}")
    return text


def _structure(option: str, text: str) -> Any:
    try:
        return json.loads(f"[{text}]" if option == "box" and not text.lstrip().startswith("[") else text)
    except (ValueError, RecursionError) as error:
        raise InvalidOption(f"{option} is not valid JSON: {error}") from error
