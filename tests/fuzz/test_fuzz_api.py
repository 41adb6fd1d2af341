"""Cases that schemathesis makes of the OpenAPI document, against the gateway in front of a real TorchServe.

`make fuzz` sends 500 an operation, and the borders of every field besides; `make test` sends a few.
"""

import base64
import copy
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.config import CoveragePhaseConfig, PhasesConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from lookalike.gateway.index_view import IndexView
from lookalike.gateway.keys import new_key
from lookalike.gateway.openapi import document
from lookalike.server import ServerProcess
from tests.e2e.catalogue_drawn import draw, encoded
from tests.fuzz.amount import IN_FULL
from tests.gateway_running import running_gateway
from tests.unit.image_samples import SAMPLES

CASES = 500 if IN_FULL else 4  # an operation
ADMIN, ADMIN_KEY = new_key("fuzz", "admin")

PICTURES = [encoded(draw("disc", "red", 3)), *(SAMPLES[kind]().data for kind in ("PNG", "WEBP", "HEIC", "TIFF"))]
IMAGES = st.one_of(st.sampled_from(PICTURES), st.binary(max_size=200))
schemathesis.openapi.media_type("image/*", IMAGES)
schemathesis.openapi.media_type("application/octet-stream", IMAGES)
schemathesis.openapi.media_type("application/x-tar", st.binary(max_size=2000))
schemathesis.openapi.format("binary", IMAGES)
schemathesis.openapi.format("base64", IMAGES.map(lambda image: base64.b64encode(image).decode()))


def _with_pictures(whole: dict[str, Any]) -> dict[str, Any]:
    """Return the document with a word about images in JSON, so that most of those made are some."""
    hinted = copy.deepcopy(whole)
    for schema in hinted["components"]["schemas"].values():
        image = schema.get("properties", {}).get("image", {})
        for kind in (image, *image.get("anyOf", ())):
            if kind.get("type") == "string":
                kind["format"] = "base64"
    return hinted


PHASES = PhasesConfig(coverage=CoveragePhaseConfig(enabled=IN_FULL))
CONFIG = SchemathesisConfig(projects=ProjectsConfig(default=ProjectConfig(phases=PHASES)))
SCHEMA = schemathesis.openapi.from_dict(_with_pictures(document()), config=CONFIG)
# Whether bytes are a picture, or a text the id of an item that exists, is beyond what a schema can say.
BEYOND_A_SCHEMA = [positive_data_acceptance]


@pytest.fixture(scope="module")
def gateway(server: ServerProcess, index_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gateway's address; it edits a copy of the index: what it removes must stay for other tests."""
    edited = tmp_path_factory.mktemp("fuzzed") / "index"
    shutil.copytree(index_dir, edited)
    places = {
        "index_dir": edited,
        "catalogue_roots": [Path(IndexView(index_dir).item("disc-red").path).parent],
        "cache_dir": tmp_path_factory.mktemp("cache"),
    }
    with running_gateway(
        upstream_url=server.base_url, keys=[ADMIN_KEY], rate="", thumbnail_rate="", edit_window_ms=1, **places
    ) as url:
        yield url


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        yield session


@pytest.fixture(scope="module")
def answered() -> Iterator[Counter[str]]:
    """How often each status came; shown at the end, so that a run in which nothing got through is seen."""
    answered: Counter[str] = Counter()
    yield answered
    print(f"\n{sum(answered.values())} requests:")
    for told, count in sorted(answered.items()):
        print(f"{count:6} {told}")


@SCHEMA.parametrize()
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False)
def test_whatever_is_sent_is_answered_as_the_document_says(
    case: schemathesis.Case, gateway: str, session: requests.Session, answered: Counter[str]
) -> None:
    response = case.call(base_url=gateway, session=session, headers={"x-api-key": ADMIN}, timeout=60)
    code = response.json()["error"]["code"] if response.status_code in (503, 504) and "error" in response.json() else ""
    answered[f"{response.status_code} {case.method} {case.path} {code}"] += 1
    assert code not in ("model_failed", "internal_error"), "a request brought a model to fail"
    excluded = list(BEYOND_A_SCHEMA)
    if response.status_code in (503, 504):  # both are documented: docs/api.md
        excluded.append(not_a_server_error)
    case.validate_response(response, excluded_checks=excluded)
