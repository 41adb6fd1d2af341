"""What comes from outside: nothing that is read can run code, every package is known, no secret is kept or logged."""

import ast
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike.gateway.keys import new_key
from tests.gateway_running import Behind, client_of, running_gateway, standing_behind

ROOT = Path(__file__).parents[2]
CODE = sorted(
    file for top in ("src", "handlers", "training", "benchmarks", "k8s") for file in (ROOT / top).rglob("*.py")
)
# Reading with one of these runs what the file says.
RUNS_CODE = {
    *(f"{module}.{name}" for module in ("pickle", "cPickle", "dill", "cloudpickle") for name in ("load", "loads")),
    *("joblib.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "marshal.loads", "pandas.read_pickle"),
    *("eval", "exec", "os.system", "os.popen"),
}


def dangerous_calls(source: str) -> Iterator[str]:
    """Yield each call that could run code from a file or through a shell, with its line."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {option.arg: getattr(option.value, "value", None) for option in node.keywords}
        unpickles = name == "torch.load" and options.get("weights_only") is not True
        if name in RUNS_CODE or unpickles or options.get("shell") is True or options.get("allow_pickle") is True:
            yield f"{node.lineno}: {name}"


def test_nothing_that_is_read_can_run_code() -> None:
    assert len(CODE) > 200
    found = [f"{file.relative_to(ROOT)}:{call}" for file in CODE for call in dangerous_calls(file.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "pickle.load(f)",
        "torch.load(p)",
        "np.load(p, allow_pickle=True)",
        "yaml.load(t)",
        "run(c, shell=True)",
    ],
)
def test_a_dangerous_call_is_found(source: str) -> None:
    assert len(list(dangerous_calls(source))) == 1


@pytest.mark.parametrize("lock", ["image-cpu.lock", "image-gpu.lock"])
def test_the_bill_of_materials_names_every_locked_package_with_its_hashes(lock: str, tmp_path: Path) -> None:
    written = tmp_path / "sbom.json"
    command = [str(Path(sys.executable).with_name("cyclonedx-py")), "requirements", "--output-reproducible"]
    subprocess.run([*command, "--output-file", written, ROOT / "requirements" / lock], check=True, capture_output=True)
    bill = json.loads(written.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    listed = {(one["name"], one["version"]) for one in bill["components"]}
    assert listed == set(re.findall(r"^([a-z0-9_.-]+)==(\S+)", (ROOT / "requirements" / lock).read_text(), flags=re.M))
    assert all(
        any(reference.get("hashes") for reference in one.get("externalReferences", [])) for one in bill["components"]
    )


def test_the_image_is_built_without_any_secret() -> None:
    dockerfile = (ROOT / "docker/Dockerfile").read_text()
    named = re.findall(r"^(?:ARG|ENV)\s+(.*(?:\\\n.*)*)", dockerfile, flags=re.M)
    assert named and not re.search(r"secret|token|passw|api_?key|credential", "\n".join(named), re.I)


def test_no_key_is_logged_or_repeated_whatever_becomes_of_the_request(caplog: pytest.LogCaptureFixture) -> None:
    secret, entry = new_key("shop", "read")
    wrong = "lk_" + "x" * 43
    behind = Behind()
    with (
        caplog.at_level(logging.DEBUG),
        standing_behind(behind) as (upstream, _),
        running_gateway(upstream_url=upstream, keys=[entry], rate="") as url,
    ):
        texts = []
        for key in (secret, wrong):
            with client_of(url, key) as client:
                texts += [client.post("/predictions/search", content=b"x").text, client.get("/nowhere").text]
            with client_of(url, None) as client:
                texts.append(client.get("/index", headers={"authorization": f"Bearer {key}"}).text)
    told = caplog.text + "".join(texts) + repr(behind.requests)
    assert secret not in told and wrong not in told


def test_every_test_that_the_page_on_security_names_is_there() -> None:
    named = re.findall(r"`((?:unit|e2e|image|fuzz|resilience)/test_\w+\.py)`", (ROOT / "docs/security.md").read_text())
    assert len(named) > 15
    assert [name for name in named if not (ROOT / "tests" / name).exists()] == []
