"""The commands of README.md and docs/clients.md run as they stand, in a project of their own with its own server."""

import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser

from lookalike.gateway.process import running_gateway, stop_gateway
from lookalike.index.layout import IndexLayout
from lookalike.server import running_server, stop_server
from tests.e2e.catalogue_drawn import draw, encoded
from tests.e2e.surroundings import ROOT

README, CLIENTS = (ROOT / "README.md").read_text(), (ROOT / "docs/clients.md").read_text()
# Minutes long, and run by CI as they are: here only what they would run is looked up.
LONG = re.compile(r"make (demo|test)\b")
LIMIT_S = 240


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """Return the lines of a page's shell blocks, without comments."""
    lines = "".join(blocks(page, "bash")).splitlines()
    return [line for line in (re.sub(r"\s+#\s.*", "", line).strip() for line in lines) if line]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkout with the built models of this one, images of one's own, and nothing that runs."""
    folder = tmp_path_factory.mktemp("lookalike")
    for path in ROOT.iterdir():
        if path.name not in ("var", ".git"):
            (folder / path.name).symlink_to(path)
    (folder / "var").mkdir()
    shutil.copytree(ROOT / "var/models", folder / "var/models", symlinks=True)
    for category, shapes in {"animals": ("disc", "ring"), "food": ("cross", "stripes")}.items():
        (folder / "photos" / category).mkdir(parents=True)
        for shape in shapes:
            for colour in ("red", "green", "blue"):
                draw(shape, colour).save(folder / f"photos/{category}/{shape}-{colour}.png")
    draw("square", "violet").save(folder / "one-more.png")
    (folder / "more.csv").write_text("path,item_id,title\none-more.png,one-more,One more\n")
    for name in ("photo.jpg", "crop1.jpg", "crop2.jpg"):
        (folder / name).write_bytes(encoded(draw("disc", "red", seed=5)))
    yield folder
    stop_gateway(folder / "var")
    stop_server(folder / "var")


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOOKALIKE_")}
    free = {f"LOOKALIKE_{name}": "0" for name in ("SERVER_PORT", "SERVER_METRICS_PORT", "GATEWAY_PORT")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, **free, "LOOKALIKE_ROUTER_INDEX_POLL_S": "0.2", "PATH": path}


def here(text: str, project: Path) -> str:
    """Return a text with the addresses of this test's own processes, which have no fixed ports."""
    server, gateway = running_server(project / "var"), running_gateway(project / "var")
    addresses = {"http://127.0.0.1:8080": server, "http://127.0.0.1:8090": gateway, "https://search.example": gateway}
    for told, process in addresses.items():
        if told in text:
            assert process is not None, f"nothing runs yet for: {text}"
            text = text.replace(told, process.base_url)
    return text


def run(command: str, project: Path) -> str:
    """Run a command as it stands; return what it printed."""
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", here(command, project)],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
    )
    assert ran.returncode == 0, f"{command}\n{ran.stdout}"
    assert '"error"' not in ran.stdout, f"{command}\n{ran.stdout}"
    return ran.stdout


def follow_index(project: Path) -> None:
    """Wait until the router has the version that is published: it looks for a new one by itself."""
    server, version = running_server(project / "var"), IndexLayout(project / "var/index").current_version()
    if server is None or version is None:
        return
    until = time.monotonic() + 20
    info = f"{server.base_url}/predictions/search/1.0/info"
    # Each of the router's workers looks for itself, and any of them may answer.
    while any(httpx.get(info).json().get("version") != version for _ in range(8)):
        assert time.monotonic() < until, f"the router does not take {version}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def printed(project: Path) -> dict[str, str]:
    """Every command of the README, run in its order, and what it printed."""
    outputs = {}
    for command in commands(README):
        if LONG.match(command):
            outputs[command] = run(command.replace("make", "make --dry-run", 1), project)
        elif command.startswith("git clone"):
            clone, _, after = command.replace("<this repository>", f"--quiet {ROOT}").partition("&&")
            outputs[command] = run(f"cd $(mktemp -d) && {clone} && {after} && ls Makefile", project)
        elif command in ("make status", "make stop"):
            continue  # at the end, when there is something that runs
        else:
            outputs[command] = run(command, project)
            follow_index(project)
    return outputs


def output_of(printed: dict[str, str], start: str) -> str:
    return next(output for command, output in printed.items() if command.startswith(start))


def test_the_readmes_commands_do_what_they_say(project, printed):
    assert output_of(printed, "git clone").strip().endswith("Makefile")
    assert "lookalike demo" in output_of(printed, "make demo")
    assert "/predictions/search" in output_of(printed, "make serve")
    hits = httpx.Response(200, text=output_of(printed, "curl -s http://127.0.0.1:8080/predictions/search -F")).json()
    assert (len(hits["hits"]), hits["hits"][0]["item_id"]) == (5, "animals/disc-red.png")
    assert '"ready":true' in output_of(printed, "curl -s http://127.0.0.1:8080/predictions/search/1.0/healthz").replace(
        " ", ""
    )
    assert "animals/disc-red" in output_of(printed, ".venv/bin/lookalike search").replace("\n", "")
    gateway = running_gateway(project / "var")
    assert gateway is not None and gateway.base_url in output_of(printed, ".venv/bin/lookalike web")
    assert "Lookalike" in httpx.get(gateway.base_url).text
    samples = httpx.get(f"{gateway.base_url}/samples").json()["samples"]
    assert {sample["item_id"].split("/")[0] for sample in samples} == {"animals", "food"}


@pytest.mark.usefixtures("printed")
def test_the_clients_commands_run(project):
    for command in commands(CLIENTS):
        if command.startswith("pip install"):
            (extra,) = re.findall(r"lookalike\[(\w+)\]", command)
            assert extra in metadata("lookalike").get_all("Provides-Extra", [])
        else:
            assert "animals/disc-red" in run(command, project).replace("\n", "")


@pytest.mark.usefixtures("printed")
def test_the_python_of_the_clients_page_runs(project):
    (code,) = blocks(CLIENTS, "python")
    (project / "snippet.py").write_text(here(code, project))
    printed = run(f"{sys.executable} -W error snippet.py", project)
    assert "animals/disc-red.png" in printed and "food/" not in printed


@pytest.mark.usefixtures("printed")
def test_the_javascript_of_the_clients_page_runs_in_a_browser(project, browser: Browser):
    (code,) = blocks(CLIENTS, "js")
    photo = base64.b64encode((project / "photo.jpg").read_bytes()).decode()
    around = f"""
        const apiKey = undefined, signal = new AbortController().signal;
        const file = new Blob([Uint8Array.from(atob("{photo}"), (letter) => letter.charCodeAt(0))]);
        {code}
        window.told = {{ hits: found.hits, response, box, sentBytes, picture, LookalikeError }};
    """
    context = browser.new_context(bypass_csp=True)  # for a test's script; the page's own are files
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(here("http://127.0.0.1:8090", project))
    page.add_script_tag(type="module", content=around)
    page.wait_for_function("() => window.told", timeout=20_000)
    told = page.evaluate("window.told")
    context.close()
    assert wrong == []
    assert told["hits"][0]["item_id"] == told["response"]["hits"][0]["item_id"] == "animals/disc-red.png"
    assert {hit["attributes"]["category"] for hit in told["hits"]} == {"animals"}
    assert len(told["box"]) == 4 and told["sentBytes"] > 0 and told["picture"].startswith("blob:")


@pytest.mark.usefixtures("printed")
def test_a_port_that_another_program_has_is_named_and_the_page_goes_on(project):
    gateway = running_gateway(project / "var")
    assert gateway is not None
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        command = [Path(sys.executable).with_name("lookalike"), "web", "--root", project]
        settings = environment() | {"LOOKALIKE_GATEWAY_PORT": str(port)}
        ran = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: 127.0.0.1:{port} cannot be used: Address already in use")
    assert "LOOKALIKE_GATEWAY_PORT" in ran.stderr and ran.stderr.count("\n") == 1
    assert running_gateway(project / "var") == gateway


@pytest.mark.usefixtures("printed")
def test_status_tells_of_both_and_stop_ends_both(project):
    server, gateway = running_server(project / "var"), running_gateway(project / "var")
    assert server is not None and gateway is not None
    again = run(".venv/bin/lookalike web --catalogue photos/ --background", project)
    anew = running_gateway(project / "var")
    assert anew is not None and anew.identity != gateway.identity and anew.base_url in again
    assert not gateway.identity.is_running()
    status = run("make status", project)
    assert server.base_url in status and f"the page: {anew.base_url} (pid {anew.pid}" in status
    assert "stopped" in run("make stop", project)
    assert not server.is_running() and not anew.identity.is_running()
    assert running_server(project / "var") is None and running_gateway(project / "var") is None
