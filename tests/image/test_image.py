"""The image as production runs it: read-only, without rights, in every role; and what it says of what is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.catalogue_drawn import COLOURS, SHAPES
from tests.image.conftest import Container, Start, docker

HEALTH = "/predictions/search/1.0/healthz"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def server(start: Start, volumes: list[str]) -> Container:
    """A server with all models, ready."""
    container = start(flags=volumes)
    sys.stdout.write(f"\nready after {container.wait_for(HEALTH):.1f} s\n")
    return container


def test_each_item_finds_itself(server: Container, shared: dict[str, Path]) -> None:
    for name in (f"{shape}-{colour}" for shape in SHAPES for colour in COLOURS):
        photo = (shared["catalogue"] / f"{name}.png").read_bytes()
        answer = httpx.post(
            f"{server.base_url}/predictions/search", files={"image": photo}, data={"crop": "none"}, timeout=30
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["hits"][0]["item_id"] == name
    used = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", server.id).stdout.strip()
    size = int(docker("image", "inspect", "-f", "{{.Size}}", os.environ.get("IMAGE", "lookalike:local")).stdout)
    sys.stdout.write(f"\nmemory {used}; image {size / 1e6:.0f} MB\n")


def test_a_damaged_photo_is_refused_by_name(server: Container, shared: dict[str, Path]) -> None:
    cut = (shared["catalogue"] / "disc-red.png").read_bytes()[:400]
    answer = httpx.post(
        f"{server.base_url}/predictions/search", content=cut, headers={"content-type": "image/png"}, timeout=30
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "corrupt_image")


def test_the_jvm_is_process_1_of_an_ordinary_user_and_the_root_file_system_stays_untouched(server: Container) -> None:
    command = docker("exec", server.id, "cat", "/proc/1/cmdline").stdout
    assert command.split("\0")[0].endswith("/java")
    assert docker("exec", server.id, "id", "-u").stdout.strip() == "10001"
    assert docker("exec", server.id, "touch", "/opt/lookalike/x").returncode != 0
    assert docker("diff", server.id).stdout == ""
    capabilities = docker("exec", server.id, "grep", "CapEff", "/proc/1/status").stdout.split()[1]
    assert int(capabilities, 16) == 0


def test_metrics_are_served(server: Container, start: Start, volumes: list[str]) -> None:
    other = start(flags=[*volumes, "--env", "LOOKALIKE_SERVER_MODELS=detector"], port=8082)
    other.wait_for("/metrics")


@pytest.mark.parametrize(
    ("models", "path"),
    [
        ("detector", "/predictions/detector/1.0/healthz"),
        ("embedder", "/predictions/embedder/1.0/healthz"),
        ("metadata_creator", "/predictions/metadata_creator/1.0/healthz"),
    ],
)
def test_a_pod_of_one_role_serves_its_model_alone(start: Start, volumes: list[str], models: str, path: str) -> None:
    container = start(flags=[*volumes, "--env", f"LOOKALIKE_SERVER_MODELS={models}"])
    sys.stdout.write(f"\n{models} ready after {container.wait_for(path):.1f} s\n")
    container.wait_for(HEALTH, status=404)
    container_log = container.log()
    assert "ERROR" not in container_log
    docker("rm", "--force", container.id)


def test_the_gateway_of_the_same_image_serves_the_page_and_passes_searches_on(
    start: Start, server: Container, volumes: list[str], shared: dict[str, Path]
) -> None:
    address = docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", server.id)
    upstream = f"LOOKALIKE_GATEWAY_UPSTREAM_URL=http://{address.stdout.strip()}:8080"
    gateway = start("web", flags=[*volumes, "--env", upstream], port=8090)
    gateway.wait_for("/healthz")
    assert "<title>" in httpx.get(f"{gateway.base_url}/").text
    photo = (shared["catalogue"] / "ring-blue.png").read_bytes()
    answer = httpx.post(
        f"{gateway.base_url}/predictions/search?top_k=3",
        content=photo,
        headers={"content-type": "image/png"},
        timeout=30,
    )
    assert len(answer.json()["hits"]) == 3
    docker("kill", "--signal", "TERM", gateway.id)
    assert gateway.ended(within_s=20) in (0, 128 + signal.SIGTERM)


def test_sigterm_ends_the_server_at_once(start: Start, volumes: list[str]) -> None:
    container = start(flags=volumes)
    container.wait_for("/ping")
    docker("kill", "--signal", "TERM", container.id)
    assert container.ended(within_s=15) in (0, 128 + signal.SIGTERM)


def test_an_altered_archive_is_refused_by_name(run: Run, shared: dict[str, Path], tmp_path: Path) -> None:
    models = shutil.copytree(shared["models"], tmp_path / "models")
    with (models / "embedder.mar").open("r+b") as archive:
        archive.seek(5000)
        byte = archive.read(1)
        archive.seek(5000)
        archive.write(bytes([byte[0] ^ 1]))
    tmp_path.chmod(0o755)
    done = run("serve", "--foreground", flags=["--volume", f"{models}:/models:ro"])
    assert done.returncode == 1
    assert "/models/embedder.mar is missing or damaged" in _only_line(done)


def test_a_store_with_another_digest_gives_no_models(run: Run, shared: dict[str, Path], tmp_path: Path) -> None:
    store = shutil.copytree(shared["store"], tmp_path / "store")
    (archive,) = (store / "models/1").glob("detector-*.mar")
    archive.write_bytes(b"x" * archive.stat().st_size)
    tmp_path.chmod(0o755)
    flags = ["--volume", f"{store}:/store:ro", "--tmpfs", "/models:uid=10001"]
    done = run("models", "pull", "/store/models/1", "--to", "/models", flags=flags)
    assert done.returncode == 1
    assert archive.name in _only_line(done)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ("LOOKALIKE_SERVER_MODELS=detectr", "no model detectr"),
        ("LOOKALIKE_SERVER_HEAP_MB=lots", "heap_mb"),
    ],
)
def test_a_wrong_setting_is_told_in_a_line(run: Run, volumes: list[str], environment: str, told: str) -> None:
    done = run("serve", "--foreground", flags=[*volumes, "--env", environment])
    assert done.returncode == 1
    assert told in _only_line(done)


def test_without_models_it_says_what_is_missing(run: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    done = run("serve", "--foreground", flags=["--volume", f"{tmp_path}:/models:ro"])
    assert done.returncode == 1
    assert "/models holds no model archive" in _only_line(done)


def test_files_that_cannot_be_executed_in_tmp_are_told_in_a_line(image: str, volumes: list[str]) -> None:
    done = docker("run", "--rm", "--read-only", "--tmpfs", "/tmp:uid=10001", *volumes, image)
    assert done.returncode == 1
    assert "/tmp is mounted noexec" in _only_line(done)


def test_a_damaged_index_keeps_the_pod_not_ready_and_is_named(
    start: Start, shared: dict[str, Path], tmp_path: Path
) -> None:
    index = shutil.copytree(shared["index"], tmp_path / "index")
    (vectors,) = index.glob("versions/*/vectors.npy")
    vectors.write_bytes(vectors.read_bytes()[:-100])
    tmp_path.chmod(0o755)
    flags = ["--volume", f"{shared['models']}:/models:ro", "--volume", f"{index}:/index:ro"]
    container = start(flags=flags)
    container.wait_for(HEALTH, status=503)
    told = httpx.get(container.base_url + HEALTH, timeout=10).json()["checks"]["index"]
    assert "vectors.npy" in told
    assert "vectors.npy" in container.log()


def test_nothing_of_the_builder_and_no_secret_lies_in_the_image(image: str) -> None:
    config = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]
    told = " ".join(config["Env"]) + docker("history", "--no-trunc", image).stdout
    for word in ("AWS_", "TOKEN", "PASSWORD", "SECRET"):
        assert word not in told.upper()
    listed = docker(
        "run", "--rm", "--entrypoint", "find", image, "/opt", "-name", "*.mar", "-o", "-name", "*.safetensors"
    )
    assert listed.stdout == ""
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["lookalike"]


def _only_line(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the one line that a failed command printed; a traceback would have more."""
    (line,) = (done.stdout + done.stderr).strip().splitlines()
    return line
