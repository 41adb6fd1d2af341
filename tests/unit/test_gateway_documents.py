"""The OpenAPI document and the page on the gateway: whole, valid, and about what there is."""

import copy
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client import Metric
from starlette.requests import Request
from starlette.responses import Response

from lookalike.errors import LookalikeError
from lookalike.gateway.envelope import SECURITY_HEADERS
from lookalike.gateway.metrics import GatewayMetrics
from lookalike.gateway.openapi import document
from lookalike.gateway.openapi_examples import EXAMPLES
from lookalike.gateway.settings import GatewaySettings
from lookalike.options import OPTIONS_OF
from lookalike.preprocessing import Preprocess
from lookalike.rows import STRUCTURED
from lookalike.schemas import ModelInfo
from lookalike.server_config import read_properties
from tests.gateway_running import client_of, running_gateway, standing_behind

ROOT = Path(__file__).parents[2]
GATEWAY_PAGE, API_PAGE = (ROOT / "docs/gateway.md").read_text(), (ROOT / "docs/api.md").read_text()
OPERATIONS = [
    (path, method, operation)
    for path, operations in document()["paths"].items()
    for method, operation in operations.items()
    if method != "parameters"
]


def test_the_document_is_valid():
    OpenAPIV31SpecValidator(copy.deepcopy(document())).validate()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_fits_its_schema(name):
    whole = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    Draft202012Validator(whole).validate(EXAMPLES[name])


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_json_of_an_operation_has_an_example(path, method, operation):
    contents = [operation.get("requestBody", {}).get("content", {})]
    contents += [response.get("content", {}) for response in operation["responses"].values() if "$ref" not in response]
    for content in contents:
        json_content = content.get("application/json")
        assert json_content is None or "example" in json_content or path == "/openapi.json"


@pytest.mark.parametrize("model", OPTIONS_OF)
def test_every_option_of_a_model_is_in_the_document(model):
    operation = document()["paths"][f"/predictions/{model}"]["post"]
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert set(OPTIONS_OF[model].model_fields) <= names


def test_every_option_that_is_a_structure_comes_as_json_in_the_query_string():
    parameters = document()["paths"]["/predictions/search"]["post"]["parameters"]
    kinds = {parameter["name"]: parameter["schema"].get("type") for parameter in parameters}
    assert {kinds[name] for name in STRUCTURED} == {"string"}


@pytest.mark.parametrize("path", document()["paths"])
def test_every_path_of_the_document_is_on_the_page(path):
    if path.startswith("/predictions/"):
        return
    assert path.removesuffix("{name}") in GATEWAY_PAGE


def test_a_label_task_is_in_the_document_while_it_is_served():
    serving = {"ants-or-bees": True}

    async def answer(request: Request) -> Response:
        task = request.url.path.split("/")[2]
        if request.url.path != f"/predictions/{task}/1.0/info" or not serving.get(task):
            return Response("{}", 404, media_type="application/json")
        preprocess = Preprocess(height_px=8, width_px=8, mean=(0, 0, 0), std=(1, 1, 1))
        card = ModelInfo(name=task, version="1.0", fingerprint="a", preprocess=preprocess, labels=["ants", "bees"])
        return Response(card.model_dump_json(), media_type="application/json")

    with standing_behind() as (behind, server):
        server.answer = answer
        settings = {"label_tasks": ["ants-or-bees", "not-served"], "health_cache_s": 0}
        with running_gateway(upstream_url=behind, **settings) as url, client_of(url) as client:
            told = client.get("/openapi.json").json()
            OpenAPIV31SpecValidator(copy.deepcopy(told)).validate()
            answered = told["paths"]["/predictions/ants-or-bees"]["post"]["responses"]["200"]
            content = answered["content"]["application/json"]
            validator = Draft202012Validator({**content["schema"], "components": told["components"]})
            validator.validate(content["example"])
            assert not validator.is_valid(content["example"] | {"label": "wasps"})
            assert "/predictions/ants-or-bees/1.0/healthz" in told["paths"]
            assert not any("not-served" in path for path in told["paths"])
            serving.clear()
            assert client.get("/openapi.json").json() == document()


def test_every_path_of_the_document_is_served(tmp_path):
    places = {
        "index_dir": tmp_path,
        "cache_dir": tmp_path,
        "web_dir": tmp_path / "none",
        "upstream_url": "http://127.0.0.1:9",
    }
    with running_gateway(rate="", **places) as url, client_of(url) as client:
        for path, method, _ in OPERATIONS:
            reply = client.request(method, path.replace("{item_id}", "a").replace("{name}", "a"))
            assert reply.status_code not in (404, 405) or "thumbnail" in path, path


@pytest.mark.parametrize("name", GatewaySettings.model_fields)
def test_every_setting_is_documented(name):
    assert f"`LOOKALIKE_GATEWAY_{name.upper()}`" in GATEWAY_PAGE


def metrics() -> list[Metric]:
    return list(GatewayMetrics().registry.collect())


@pytest.mark.parametrize("metric", metrics(), ids=lambda metric: metric.name)
def test_every_metric_is_documented(metric):
    assert f"`{metric.name}{'_total' if metric.type == 'counter' else ''}`" in GATEWAY_PAGE


def codes(kind: type[LookalikeError] = LookalikeError) -> set[str]:
    return {kind.code}.union(*(codes(child) for child in kind.__subclasses__()))


@pytest.mark.parametrize("code", sorted(codes()))
def test_every_error_code_is_documented(code):
    assert f"`{code}`" in API_PAGE


def test_the_body_limit_is_that_of_the_server_behind():
    config = read_properties((ROOT / "docker/config.properties").read_text())
    assert GatewaySettings().max_body_bytes == int(config["max_request_size"])
    assert GatewaySettings().max_response_bytes == int(config["max_response_size"])


def test_the_page_is_served_with_what_caches_and_browsers_need(tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html><title>a</title>")
    (tmp_path / "app.js").write_text("export {};")
    (tmp_path.parent / "secret.txt").write_text("secret")
    with running_gateway(web_dir=tmp_path, index_dir=tmp_path / "index") as url, client_of(url) as client:
        page, script = client.get("/"), client.get("/app.js")
        assert page.headers["content-type"].startswith("text/html")
        assert script.headers["content-type"].startswith("text/javascript")
        assert page.headers["cache-control"] == "no-cache"
        assert client.get("/app.js", headers={"if-none-match": script.headers["etag"]}).status_code == 304
        assert {name: page.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
        for path in ("/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/nothing"):
            reply = client.get(path)
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_path")
        assert client.post("/").status_code == 405


def test_the_projects_own_page_has_no_inline_code():
    page = (ROOT / "web/index.html").read_text()
    assert "<script>" not in page and "style=" not in page and "onclick" not in page
