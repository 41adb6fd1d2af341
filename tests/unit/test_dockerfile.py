"""What can be said of the image without building it; `make image-test` says the rest."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text()
INSTRUCTIONS = re.findall(r"^([A-Z]+) ((?:.*\\\n)*.*)$", DOCKERFILE, flags=re.M)
NAMES = re.compile(r"^([a-z0-9_.-]+)==", re.M)


def sent_to_the_builder(path: str) -> bool:
    """Tell whether .dockerignore, whose last match decides, lets a path through."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and (fnmatch(path, pattern) or path.startswith(f"{pattern}/")):
            sent = line.startswith("!")
    return sent


def test_what_is_copied_exists_and_is_sent_to_the_builder():
    copied = [
        source
        for name, rest in INSTRUCTIONS
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert len(copied) > 5
    for source in copied:
        assert (ROOT / source).exists(), source
        assert sent_to_the_builder(source), source


@pytest.mark.parametrize("path", ["var/models/x", ".git/config", ".venv/bin/python", "model_store/embedder", "tests/x"])
def test_nothing_else_reaches_the_builder(path):
    assert not sent_to_the_builder(path)


def test_its_user_is_a_number_and_its_start_needs_no_shell():
    by_name = dict(INSTRUCTIONS)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", by_name["USER"])
    assert by_name["ENTRYPOINT"] == '["lookalike"]'
    assert by_name["CMD"] == '["serve", "--foreground"]'


@pytest.mark.parametrize("lock", ["image-cpu.lock", "image-gpu.lock"])
def test_an_image_gets_the_versions_that_are_tested_and_every_package_has_a_hash(lock):
    def pinned(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9_.-]+)==(\S+)", (ROOT / "requirements" / name).read_text(), flags=re.M))

    tested, image = pinned("dev.lock"), pinned(lock)
    other = {name for name, version in image.items() if tested.get(name) != version}
    # No environment has both builds of FAISS; the one for GPUs brings CUDA libraries of its own.
    assert {name for name in other if not name.endswith("-cu12")} <= {"faiss-gpu"}
    entries = re.split(r"^(?=[a-z0-9_.-]+==)", (ROOT / "requirements" / lock).read_text(), flags=re.M)[1:]
    assert [entry.split("==")[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_the_cpu_image_has_no_torch_and_the_gpu_image_one_faiss():
    cpu = NAMES.findall((ROOT / "requirements/image-cpu.lock").read_text())
    gpu = NAMES.findall((ROOT / "requirements/image-gpu.lock").read_text())
    assert "torch" not in cpu
    assert "torch" in gpu
    assert [name for name in gpu if name.startswith("faiss")] == ["faiss-gpu"]
