"""Bodies that are meant to harm, sent to a real TorchServe without the gateway before it: what gets past it, too."""

import base64
import json
import time

import httpx
import pytest

from lookalike.server import ServerProcess
from tests.e2e.catalogue_drawn import draw, encoded
from tests.gateway_running import client_of, running_gateway

IMAGE = encoded(draw("disc", "red", 3))
TEXT = base64.b64encode(IMAGE).decode()
BODIES = {
    "JSON 100,000 lists deep": "[" * 100_000,
    "JSON 100,000 objects deep": '{"a":' * 100_000,
    "a number of 100,000 digits": f'{{"top_k": {"9" * 100_000}}}',
    "no number": '{"image": NaN}',
    "a lone surrogate": '{"image": "\\ud800"}',
    "two million wrong filter values": json.dumps({"image": TEXT, "filters": {"colour": [1] * 2_000_000}}),
    "300,000 filters": json.dumps({"image": TEXT, "filters": {str(i): 1 for i in range(300_000)}}),
    "300,000 unknown fields": json.dumps({"image": TEXT, **{str(i): 1 for i in range(300_000)}}),
    "two million wrong examples": json.dumps({"image": TEXT, "like": [1] * 2_000_000}),
    "two million images": json.dumps({"images": ["x"] * 2_000_000}),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_beyond_reason_is_refused_soon_and_in_few_words(server: ServerProcess, name: str) -> None:
    url, start_s = f"{server.base_url}/predictions/search", time.monotonic()
    reply = httpx.post(url, content=BODIES[name], headers={"content-type": "application/json"}, timeout=60)
    elapsed_s = time.monotonic() - start_s
    print(f"\n{name}: {reply.status_code} in {elapsed_s * 1000:.0f} ms")
    assert reply.status_code in (400, 422)
    assert reply.json()["error"]["code"] in ("invalid_request", "invalid_option")
    assert len(reply.content) < 2000
    assert elapsed_s < 5


@pytest.mark.parametrize("part", ['form-data; name=""', "form-data", "; ;", ""])
def test_a_form_that_cannot_be_read_is_not_told_as_a_failure_of_the_model(server: ServerProcess, part: str) -> None:
    body = f"--x\r\ncontent-disposition: {part}\r\n\r\na\r\n--x--\r\n"
    with running_gateway(upstream_url=server.base_url) as url, client_of(url) as client:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        reply = client.post("/predictions/search", content=body.encode(), headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize("name", ["../../x.png", "/etc/passwd", "a\x00b", "..\\x", "x" * 5000, "\u202egnp.exe"])
def test_the_name_of_a_file_is_of_no_use(server: ServerProcess, name: str) -> None:
    reply = httpx.post(f"{server.base_url}/predictions/search", files={"image": (name, IMAGE)}, timeout=30)
    assert reply.status_code == 200
    assert name not in reply.text
