"""The OpenAPI 3.1 document, made of the wire types; what stands here are only the paths."""

from functools import cache
from importlib.metadata import version

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from lookalike import item_schemas, schemas
from lookalike.gateway import openapi_parts as part
from lookalike.gateway.label_tasks import ServedTask
from lookalike.gateway.openapi_examples import EXAMPLES, STRUCTURES
from lookalike.gateway.openapi_parts import ADMIN, BINARY, OPEN, READ, Json
from lookalike.gateway.thumbnails import EDGES_PX
from lookalike.options import OPTIONS_OF
from lookalike.rows import JSON_TYPE, NPY_TYPE, NPZ_TYPE

_MODELS: tuple[type[BaseModel], ...] = (
    schemas.SearchResponse,
    schemas.DetectorResponse,
    schemas.EmbedderResponse,
    schemas.MetadataResponse,
    schemas.LabelResponse,
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
_IMAGE = "ImageBody"
_SUMMARIES = {
    "search": "Find the catalogue items that look most like the subject of a photo",
    "detector": "Find the subjects in a photo",
    "embedder": "Embed one or many crops",
    "metadata_creator": "Describe one or many crops",
}


@cache
def document(tasks: tuple[ServedTask, ...] = ()) -> Json:
    """Return the document, with the label tasks that are served."""
    # In validation mode: the serialisers only round numbers, and a schema of theirs would say nothing.
    _, made = models_json_schema([(model, "validation") for model in _MODELS], ref_template=part.REF)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lookalike",
            "version": version("lookalike"),
            "description": "Reverse image search as a service.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": {**_paths(), **_task_paths(tasks)},
        "components": {
            "schemas": {**made["$defs"], **_bodies(made["$defs"])},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "responses": {"Error": part.content("An error.", "ErrorResponse")},
        },
    }


def _bodies(made: Json) -> Json:
    """Return the JSON bodies of the models: their options, and the image beside them."""
    image: Json = {"type": "string", "description": "The image in base64; a data: URL is fine, too."}
    url: Json = {"type": "string", "format": "uri", "description": "In place of image, where the operator allows it."}

    def with_image(options: str) -> Json:
        properties = {"image": image, "image_url": url, **made[options].get("properties", {})}
        one = {"oneOf": [{"required": ["image"]}, {"required": ["image_url"]}]}
        return {"type": "object", "properties": properties, "additionalProperties": False, **one}

    words = {"image": {"anyOf": [image, {"type": "null"}]}, **made["ItemFields"]["properties"]}
    return {
        "SearchBody": with_image("SearchOptions"),
        "DetectorBody": with_image("DetectorOptions"),
        "ImageBody": with_image("NoOptions"),
        "ItemWords": {"type": "object", "properties": words, "additionalProperties": False},
    }


def _paths() -> Json:
    name = part.path_parameter("name", "SnapshotRequest", "name")
    item = {"name": "item_id", "in": "path", "required": True, "schema": {"type": "string"}, "example": "shoe-1"}
    edge = part.query("edge", {"type": "integer", "enum": list(EDGES_PX), "default": 256}, 256)
    limit = part.query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}, 50)
    cursor = part.query("cursor", {"type": "string"}, "WyIwMDAwMDMiLCAxXQ")
    text, this = {"schema": {"type": "string"}}, {"schema": {"type": "object"}}
    tar = {"application/x-tar": {"schema": BINARY}}
    return {
        **{f"/predictions/{model}": {"post": _model(model)} for model in OPTIONS_OF},
        **{f"/predictions/{model}/1.0/info": {"get": _info(model)} for model in OPTIONS_OF},
        **{f"/predictions/{model}/1.0/healthz": {"get": _model_health()} for model in OPTIONS_OF},
        "/samples": {"get": part.operation("Offer a few items to search by", READ, {200: "SampleItems", 304: None})},
        "/items": {"get": part.operation("List the items", ADMIN, {200: "ItemsPage"}, parameters=[limit, cursor])},
        "/items/batch": {
            "post": part.operation("Change many items", ADMIN, {200: "ItemsEdited"}, body=part.json_body("ItemBatch"))
        },
        "/items/{item_id}": {
            "parameters": [item],
            "get": part.operation("Look at an item", ADMIN, {200: "CatalogueItem"}),
            "put": part.operation(
                "Add or replace an item",
                ADMIN,
                {200: "ItemEdited", 201: "ItemEdited"},
                _words_in_query(),
                _item_body(),
            ),
            "delete": part.operation("Remove an item", ADMIN, {200: "ItemEdited"}),
        },
        "/items/{item_id}/thumbnail": {"parameters": [item], "get": _thumbnail([edge])},
        "/index": {"get": part.operation("Say which index version is in use", READ, {200: "IndexState"})},
        "/snapshots": {
            "get": part.operation("List the snapshots", ADMIN, {200: "SnapshotList"}),
            "post": part.operation(
                "Keep the version in use", ADMIN, {201: "SnapshotInfo"}, body=part.json_body("SnapshotRequest")
            ),
        },
        "/snapshots/{name}": {
            "parameters": [name],
            "get": part.raw(part.operation("Download a snapshot", ADMIN, {}), tar),
            "put": part.operation(
                "Upload a snapshot", ADMIN, {201: "SnapshotInfo"}, body={"required": True, "content": tar}
            ),
            "delete": part.operation("Delete a snapshot", ADMIN, {204: None}),
        },
        "/snapshots/{name}/restore": {
            "parameters": [name],
            "post": part.operation("Check a snapshot wholly and publish it", ADMIN, {200: "IndexState"}),
        },
        "/healthz": {
            "get": part.operation("Say whether a search could be answered", OPEN, {200: "Health", 503: "Health"})
        },
        "/livez": {"get": part.operation("Say that the process lives", OPEN, {200: "Health"})},
        "/metrics": {"get": part.raw(part.operation("Metrics for Prometheus", ADMIN, {}), {"text/plain": text})},
        "/openapi.json": {"get": part.raw(part.operation("This document", OPEN, {}), {JSON_TYPE: this})},
    }


def _task_paths(tasks: tuple[ServedTask, ...]) -> Json:
    paths: Json = {}
    for task in tasks:
        post = _post(f"Put an image under a label of {task.name}", "LabelResponse", _IMAGE, _common_options())
        answer = post["responses"]["200"]["content"][JSON_TYPE]
        answer["schema"] = {**answer["schema"], "properties": {"label": {"enum": list(task.labels)}}}
        answer["example"] = task.example()
        paths |= {
            f"/predictions/{task.name}": {"post": post},
            f"/predictions/{task.name}/{task.version}/info": {"get": _info(task.name)},
            f"/predictions/{task.name}/{task.version}/healthz": {"get": _model_health()},
        }
    return paths


def _model(model: str) -> Json:
    body = {"search": "SearchBody", "detector": "DetectorBody"}.get(model, _IMAGE)
    operation = _post(_SUMMARIES[model], _ANSWERS[model], body, _option_parameters(model))
    if model == "embedder":
        operation["responses"]["200"]["content"] |= {
            NPY_TYPE: {"schema": BINARY},
            NPZ_TYPE: {"schema": BINARY},
        }
    return operation


def _post(summary: str, answer: str, body: str, parameters: list[Json]) -> Json:
    """Return an operation that takes an image."""
    form = {"type": "object", "required": ["image"], "properties": {"image": BINARY}, "additionalProperties": True}
    content = {
        "image/*": {"schema": BINARY},
        "application/octet-stream": {"schema": BINARY},
        "multipart/form-data": {"schema": form},
        JSON_TYPE: {"schema": part.ref(body), "example": EXAMPLES[body]},
    }
    return part.operation(summary, READ, {200: answer}, parameters, {"required": True, "content": content})


def _option_parameters(model: str) -> list[Json]:
    properties = OPTIONS_OF[model].model_json_schema(ref_template=part.REF).get("properties", {})
    options = [
        part.query(name, {"type": "string"}, STRUCTURES[name]) if name in STRUCTURES else part.query(name, schema)
        for name, schema in properties.items()
    ]
    return [*options, *_common_options()]


def _common_options() -> list[Json]:
    """Return the options of every model."""
    deadline = part.query("deadline_ms", {"type": "number", "exclusiveMinimum": 0}, 800)
    url = part.query("image_url", {"type": "string", "format": "uri"}, "https://example.org/photo.jpg")
    return [deadline, url]


def _info(model: str) -> Json:
    answer = "IndexInfo" if model == "search" else "ModelInfo"
    return part.operation("Say which index or model answers", READ, {200: answer})


def _model_health() -> Json:
    operation = part.operation("Let the golden image run through", READ, {200: "Health"})
    either = {"anyOf": [part.ref("Health"), part.ref("ErrorResponse")]}
    content = {JSON_TYPE: {"schema": either, "example": {"ready": False, "checks": {"index": "none is published"}}}}
    operation["responses"]["503"] = {"description": "Not ready.", "content": content}
    return operation


def _thumbnail(parameters: list[Json]) -> Json:
    operation = part.operation("The item's picture, small", READ, {304: None}, parameters)
    return part.raw(operation, {"image/webp": {"schema": BINARY}, "image/jpeg": {"schema": BINARY}})


def _item_body() -> Json:
    form = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in item_schemas.ItemFields.model_fields} | {"image": BINARY},
        "additionalProperties": False,
    }
    return {
        "content": {
            "image/*": {"schema": BINARY},
            "multipart/form-data": {"schema": form},
            JSON_TYPE: {"schema": part.ref("ItemWords"), "example": EXAMPLES["ItemWords"]},
        }
    }


def _words_in_query() -> list[Json]:
    examples = {"title": "Red shoe", "url": "https://shop.example/1", "attributes": '{"colour": "red"}'}
    return [part.query(name, {"type": "string"}, example) for name, example in examples.items()]
