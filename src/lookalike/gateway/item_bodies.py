"""The bodies of /items: an image as it is, a form, or JSON, read into an image and what is said of the item."""

import base64
import binascii
import json
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from lookalike.errors import InvalidOption, InvalidRequest, UnsupportedImage, wrong_fields
from lookalike.gateway.body import Body
from lookalike.gateway.context import RequestContext
from lookalike.item_schemas import ItemFields
from lookalike.rows import JSON_TYPE

_FORM, _URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
_MAX_FIELD_BYTES = 65_536
M = TypeVar("M", bound=BaseModel)


class ItemBody(NamedTuple):
    """What a PUT says of an item; `image` is None where it keeps the one that it has."""

    fields: ItemFields
    image: bytes | None


class _ItemWords(ItemFields):
    """A JSON body of `PUT /items/{item_id}`: the id stands in the path, and nowhere else."""

    image: str | None = None


async def read_item(body: Body, context: RequestContext, query: dict[str, str]) -> ItemBody:
    """Read the body of `PUT /items/{item_id}`; what the query string says of the item goes with an image as it is.

    Raises:
        InvalidRequest, InvalidOption: naming what is wrong.
    """
    media_type = context.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type == JSON_TYPE:
        words = read_json(_ItemWords, await body.read())
        image = None if words.image is None else decode_base64(words.image)
        return ItemBody(_merged(words.model_dump(exclude={"image"}, exclude_unset=True), query), image)
    if media_type == _FORM:
        told, image = await _read_form(body, context)
        validated(ItemFields, told)
        return ItemBody(_merged(told, query), image)
    if media_type not in ("", _URLENCODED, "application/octet-stream") and not media_type.startswith("image/"):
        raise UnsupportedImage(f"a body of type {media_type[:80]!a}", allowed=["image/*", _FORM, JSON_TYPE])
    return ItemBody(validated(ItemFields, _told(query)), await body.read() or None)


def read_json(model: type[M], data: bytes) -> M:
    """Read a JSON body as `model`; raises InvalidRequest, InvalidOption."""
    return validated(model, _object(data))


def validated(model: type[M], told: dict[str, Any]) -> M:
    """Return `told` as `model`.

    Raises:
        InvalidOption: naming each wrong field, and those that there are.
    """
    try:
        return model.model_validate(told)
    except ValidationError as error:
        raise InvalidOption(wrong_fields(error), allowed=list(model.model_fields)) from error


def decode_base64(text: str) -> bytes:
    """Return the bytes of base64, with or without `data:...,` before it; raises InvalidRequest."""
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"image is not valid base64: {error}") from error


def _merged(words: dict[str, Any], query: dict[str, str]) -> ItemFields:
    """Return what a body, checked by itself, and the query string say; of two that say the same the query counts."""
    return validated(ItemFields, words | _told(query))


def _object(data: bytes) -> dict[str, Any]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is not valid JSON", allowed="a JSON object") from error
    if not isinstance(told, dict):
        raise InvalidRequest("the body is no JSON object", allowed="a JSON object")
    return told


def _told(texts: dict[str, str]) -> dict[str, Any]:
    """Return fields that came as text; attributes are JSON."""
    if "attributes" not in texts:
        return dict(texts)
    try:
        return {**texts, "attributes": json.loads(texts["attributes"])}
    except (ValueError, RecursionError) as error:
        raise InvalidOption("attributes is not valid JSON", allowed='{"name": "value"}') from error


async def _read_form(body: Body, context: RequestContext) -> tuple[dict[str, Any], bytes | None]:
    headers = Headers({"content-type": context.headers["content-type"]})
    parser = MultiPartParser(
        headers,
        body.parts(),  # type: ignore[arg-type]
        max_files=1,
        max_fields=8,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        if body.error is not None:
            raise body.error from error
        raise InvalidRequest("the form cannot be read", allowed="multipart/form-data") from error
    try:
        parts = form.multi_items()
        texts = {name: value for name, value in parts if isinstance(value, str)}
        images = [value for name, value in parts if isinstance(value, UploadFile) and name == "image"]
        if len(texts) + len(images) < len(parts) or "image" in texts:
            allowed = ["image (a file)", *ItemFields.model_fields]
            raise InvalidRequest("the form has a part that is not known, or one twice", allowed)
        return _told(texts), await images[0].read() if images else None
    finally:
        await form.close()
