"""web/lookalike.js in Node, against a real gateway."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lookalike.gateway.keys import new_key
from tests.gateway_running import running_gateway, standing_behind

ROOT = Path(__file__).parents[2]
NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_the_javascript_client_in_node(tmp_path):
    # Without a package.json beside it, Node takes only .mjs for a module.
    shutil.copy(ROOT / "web/lookalike.js", tmp_path / "lookalike.mjs")
    shutil.copy(Path(__file__).with_name("javascript_client.test.mjs"), tmp_path / "client.test.mjs")
    secret, key = new_key("page", "read")
    with standing_behind() as (behind, server), running_gateway(upstream_url=behind, keys=[key], rate="") as url:
        environment = {"GATEWAY": url, "KEY": secret, "PATH": str(Path(NODE or "").parent)}
        command = [NODE, "--test", str(tmp_path / "client.test.mjs")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    searches = [headers for path, headers, _ in server.requests if path == "/predictions/search"]
    assert searches[0]["x-lookalike-top-k"] == "2"
    assert searches[0]["x-lookalike-filters"] == '{"farbe":["gr\\u00fcn"]}'
