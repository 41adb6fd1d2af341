"""The OpenAPI 3.1 document, made of the wire types; what stands here are only the paths."""

import json
from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from lookalike import item_schemas, schemas
from lookalike.gateway.context import context_of
from lookalike.gateway.openapi_examples import EXAMPLES, STRUCTURES
from lookalike.gateway.thumbnails import EDGES_PX
from lookalike.options import OPTIONS_OF
from lookalike.rows import JSON_TYPE, NPY_TYPE, NPZ_TYPE

_REF = "#/components/schemas/{model}"
_MODELS: tuple[type[BaseModel], ...] = (
    schemas.SearchResponse,
    schemas.DetectorResponse,
    schemas.EmbedderResponse,
    schemas.MetadataResponse,
    schemas.IndexInfo,
    schemas.ModelInfo,
    schemas.Health,
    schemas.ErrorResponse,
    schemas.SearchOptions,
    schemas.DetectorOptions,
    schemas.EmbedderOptions,
    schemas.NoOptions,
    item_schemas.ItemPut,
    item_schemas.ItemFields,
    item_schemas.ItemBatch,
    item_schemas.CatalogueItem,
    item_schemas.ItemsPage,
    item_schemas.SampleItems,
    item_schemas.ItemEdited,
    item_schemas.ItemsEdited,
    item_schemas.IndexState,
    item_schemas.SnapshotRequest,
    item_schemas.SnapshotInfo,
    item_schemas.SnapshotList,
)
_ANSWERS = {
    "search": "SearchResponse",
    "detector": "DetectorResponse",
    "embedder": "EmbedderResponse",
    "metadata_creator": "MetadataResponse",
}
_SUMMARIES = {
    "search": "Find the catalogue items that look most like the subject of a photo",
    "detector": "Find the subjects in a photo",
    "embedder": "Embed one or many crops",
    "metadata_creator": "Describe one or many crops",
}
_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
_JSON = dict[str, Any]
_READ, _ADMIN, _OPEN = "read", "admin", "open"


async def show_openapi(request: Request) -> Response:
    """Answer `GET /openapi.json`."""
    context_of(request.scope).route = "/openapi.json"
    return Response(_encoded(), media_type=JSON_TYPE)


@cache
def _encoded() -> bytes:
    return json.dumps(document(), separators=(",", ":")).encode()


@cache
def document() -> _JSON:
    """Return the document."""
    # In validation mode: the serialisers only round numbers, and a schema of theirs would say nothing.
    _, made = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lookalike",
            "version": version("lookalike"),
            "description": "Reverse image search as a service.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(),
        "components": {
            "schemas": {**made["$defs"], **_bodies(made["$defs"])},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "responses": {"Error": _content("An error.", "ErrorResponse")},
        },
    }


def _bodies(made: _JSON) -> _JSON:
    """Return the JSON bodies of the models: their options, and the image beside them."""
    image: _JSON = {"type": "string", "description": "The image in base64; a data: URL is fine, too."}
    url: _JSON = {"type": "string", "format": "uri", "description": "In place of image, where the operator allows it."}

    def with_image(options: str) -> _JSON:
        properties = {"image": image, "image_url": url, **made[options].get("properties", {})}
        one = {"oneOf": [{"required": ["image"]}, {"required": ["image_url"]}]}
        return {"type": "object", "properties": properties, "additionalProperties": False, **one}

    words = {"image": image, **made["ItemFields"]["properties"]}
    return {
        "SearchBody": with_image("SearchOptions"),
        "DetectorBody": with_image("DetectorOptions"),
        "ImageBody": with_image("NoOptions"),
        "ItemWords": {"type": "object", "properties": words, "additionalProperties": False},
    }


def _paths() -> _JSON:
    name = _path_parameter("name", "SnapshotRequest", "name")
    item = {"name": "item_id", "in": "path", "required": True, "schema": {"type": "string"}, "example": "shoe-1"}
    edge = _query("edge", {"type": "integer", "enum": list(EDGES_PX), "default": 256}, 256)
    limit = _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}, 50)
    cursor = _query("cursor", {"type": "string"}, "WyIwMDAwMDMiLCAxXQ")
    text, this = {"schema": {"type": "string"}}, {"schema": {"type": "object"}}
    tar = {"application/x-tar": {"schema": _BINARY}}
    return {
        **{f"/predictions/{model}": {"post": _model(model)} for model in OPTIONS_OF},
        **{f"/predictions/{model}/1.0/info": {"get": _info(model)} for model in OPTIONS_OF},
        **{f"/predictions/{model}/1.0/healthz": {"get": _model_health()} for model in OPTIONS_OF},
        "/samples": {"get": _operation("Offer a few items to search by", _READ, {200: "SampleItems", 304: None})},
        "/items": {"get": _operation("List the items", _ADMIN, {200: "ItemsPage"}, parameters=[limit, cursor])},
        "/items/batch": {
            "post": _operation("Change many items", _ADMIN, {200: "ItemsEdited"}, body=_json_body("ItemBatch"))
        },
        "/items/{item_id}": {
            "parameters": [item],
            "get": _operation("Look at an item", _ADMIN, {200: "CatalogueItem"}),
            "put": _operation(
                "Add or replace an item",
                _ADMIN,
                {200: "ItemEdited", 201: "ItemEdited"},
                _words_in_query(),
                _item_body(),
            ),
            "delete": _operation("Remove an item", _ADMIN, {200: "ItemEdited"}),
        },
        "/items/{item_id}/thumbnail": {"parameters": [item], "get": _thumbnail([edge])},
        "/index": {"get": _operation("Say which index version is in use", _READ, {200: "IndexState"})},
        "/snapshots": {
            "get": _operation("List the snapshots", _ADMIN, {200: "SnapshotList"}),
            "post": _operation(
                "Keep the version in use", _ADMIN, {201: "SnapshotInfo"}, body=_json_body("SnapshotRequest")
            ),
        },
        "/snapshots/{name}": {
            "parameters": [name],
            "get": _raw(_operation("Download a snapshot", _ADMIN, {}), tar),
            "put": _operation(
                "Upload a snapshot", _ADMIN, {201: "SnapshotInfo"}, body={"required": True, "content": tar}
            ),
            "delete": _operation("Delete a snapshot", _ADMIN, {204: None}),
        },
        "/snapshots/{name}/restore": {
            "parameters": [name],
            "post": _operation("Check a snapshot wholly and publish it", _ADMIN, {200: "IndexState"}),
        },
        "/healthz": {
            "get": _operation("Say whether a search could be answered", _OPEN, {200: "Health", 503: "Health"})
        },
        "/livez": {"get": _operation("Say that the process lives", _OPEN, {200: "Health"})},
        "/metrics": {"get": _raw(_operation("Metrics for Prometheus", _ADMIN, {}), {"text/plain": text})},
        "/openapi.json": {"get": _raw(_operation("This document", _OPEN, {}), {JSON_TYPE: this})},
    }


def _operation(
    summary: str,
    role: str,
    answers: dict[int, str | None],
    parameters: list[_JSON] | None = None,
    body: _JSON | None = None,
) -> _JSON:
    """Return an operation; `answers` names the message of each status, None for an empty one."""
    responses = {
        str(status): _content("Done.", name) if name else {"description": "Done."} for status, name in answers.items()
    }
    operation: _JSON = {
        "summary": summary,
        "responses": {**responses, "default": {"$ref": "#/components/responses/Error"}},
    }
    operation["security"] = [] if role == _OPEN else [{"key": []}, {"bearer": []}] + ([{}] if role == _READ else [])
    if role != _OPEN:
        operation["description"] = f"Needs an API key of the role {role}" + (
            " once there is one." if role == _READ else "."
        )
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = body
    return operation


def _model(model: str) -> _JSON:
    body = {"search": "SearchBody", "detector": "DetectorBody"}.get(model, "ImageBody")
    form = {"type": "object", "required": ["image"], "properties": {"image": _BINARY}, "additionalProperties": True}
    content = {
        "image/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
        "multipart/form-data": {"schema": form},
        JSON_TYPE: {"schema": _ref(body), "example": EXAMPLES[body]},
    }
    operation = _operation(
        _SUMMARIES[model],
        _READ,
        {200: _ANSWERS[model]},
        _option_parameters(model),
        {"required": True, "content": content},
    )
    if model == "embedder":
        operation["responses"]["200"]["content"] |= {NPY_TYPE: {"schema": _BINARY}, NPZ_TYPE: {"schema": _BINARY}}
    return operation


def _option_parameters(model: str) -> list[_JSON]:
    properties = OPTIONS_OF[model].model_json_schema(ref_template=_REF).get("properties", {})
    options = [
        _query(name, {"type": "string"}, STRUCTURES[name]) if name in STRUCTURES else _query(name, schema)
        for name, schema in properties.items()
    ]
    deadline = _query("deadline_ms", {"type": "number", "exclusiveMinimum": 0}, 800)
    url = _query("image_url", {"type": "string", "format": "uri"}, "https://example.org/photo.jpg")
    return [*options, deadline, url]


def _info(model: str) -> _JSON:
    answer = "IndexInfo" if model == "search" else "ModelInfo"
    return _operation("Say which index or model answers", _READ, {200: answer})


def _model_health() -> _JSON:
    operation = _operation("Let the golden image run through", _READ, {200: "Health"})
    either = {"anyOf": [_ref("Health"), _ref("ErrorResponse")]}
    content = {JSON_TYPE: {"schema": either, "example": {"ready": False, "checks": {"index": "none is published"}}}}
    operation["responses"]["503"] = {"description": "Not ready.", "content": content}
    return operation


def _thumbnail(parameters: list[_JSON]) -> _JSON:
    operation = _operation("The item's picture, small", _READ, {304: None}, parameters)
    return _raw(operation, {"image/webp": {"schema": _BINARY}, "image/jpeg": {"schema": _BINARY}})


def _item_body() -> _JSON:
    form = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in item_schemas.ItemFields.model_fields} | {"image": _BINARY},
        "additionalProperties": False,
    }
    return {
        "content": {
            "image/*": {"schema": _BINARY},
            "multipart/form-data": {"schema": form},
            JSON_TYPE: {"schema": _ref("ItemWords"), "example": EXAMPLES["ItemWords"]},
        }
    }


def _words_in_query() -> list[_JSON]:
    examples = {"title": "Red shoe", "url": "https://shop.example/1", "attributes": '{"colour": "red"}'}
    return [_query(name, {"type": "string"}, example) for name, example in examples.items()]


def _json_body(name: str) -> _JSON:
    return {"required": True, "content": {JSON_TYPE: {"schema": _ref(name), "example": EXAMPLES[name]}}}


def _content(description: str, name: str) -> _JSON:
    return {
        "description": description,
        "content": {JSON_TYPE: {"schema": _ref(name), "example": EXAMPLES[name]}},
    }


def _raw(operation: _JSON, content: _JSON) -> _JSON:
    operation["responses"]["200"] = {"description": "Done.", "content": content}
    return operation


def _ref(name: str) -> _JSON:
    return {"$ref": _REF.format(model=name)}


def _query(name: str, schema: _JSON, example: object = None) -> _JSON:
    parameter: _JSON = {"name": name, "in": "query", "schema": schema}
    return parameter if example is None else {**parameter, "example": example}


def _path_parameter(name: str, model: str, field: str) -> _JSON:
    schema = _ref(model)["$ref"] + f"/properties/{field}"
    return {"name": name, "in": "path", "required": True, "schema": {"$ref": schema}, "example": EXAMPLES[model][field]}
