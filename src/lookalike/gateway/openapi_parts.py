"""What the operations of the OpenAPI document are made of: answers, bodies, parameters."""

from typing import Any

from lookalike.gateway.openapi_examples import EXAMPLES
from lookalike.rows import JSON_TYPE

REF = "#/components/schemas/{model}"
BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
READ, ADMIN, OPEN = "read", "admin", "open"
Json = dict[str, Any]


def operation(
    summary: str,
    role: str,
    answers: dict[int, str | None],
    parameters: list[Json] | None = None,
    body: Json | None = None,
) -> Json:
    """Return an operation; `answers` names the message of each status, None for an empty one."""
    responses = {
        str(status): content("Done.", name) if name else {"description": "Done."} for status, name in answers.items()
    }
    made: Json = {
        "summary": summary,
        "responses": {**responses, "default": {"$ref": "#/components/responses/Error"}},
    }
    made["security"] = [] if role == OPEN else [{"key": []}, {"bearer": []}] + ([{}] if role == READ else [])
    if role != OPEN:
        made["description"] = f"Needs an API key of the role {role}" + (" once there is one." if role == READ else ".")
    if parameters:
        made["parameters"] = parameters
    if body:
        made["requestBody"] = body
    return made


def json_body(name: str) -> Json:
    """Return a JSON body of the message `name`."""
    return {"required": True, "content": {JSON_TYPE: {"schema": ref(name), "example": EXAMPLES[name]}}}


def content(description: str, name: str) -> Json:
    """Return an answer of the message `name`."""
    return {
        "description": description,
        "content": {JSON_TYPE: {"schema": ref(name), "example": EXAMPLES[name]}},
    }


def raw(operation: Json, content: Json) -> Json:
    """Return the operation with an answer of other content than a message."""
    operation["responses"]["200"] = {"description": "Done.", "content": content}
    return operation


def ref(name: str) -> Json:
    """Return a reference to the message `name`."""
    return {"$ref": REF.format(model=name)}


def query(name: str, schema: Json, example: object = None) -> Json:
    """Return a parameter of the query string."""
    parameter: Json = {"name": name, "in": "query", "schema": schema}
    return parameter if example is None else {**parameter, "example": example}


def path_parameter(name: str, model: str, field: str) -> Json:
    """Return a parameter of the path, as the field of a message describes it."""
    schema = ref(model)["$ref"] + f"/properties/{field}"
    return {"name": name, "in": "path", "required": True, "schema": {"$ref": schema}, "example": EXAMPLES[model][field]}
