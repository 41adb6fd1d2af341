import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from lookalike.errors import InvalidOption
from lookalike.index import commands
from tests.colour_embedder import ColourEmbedder, save_picture


class LoadedColours(ColourEmbedder):
    """Takes the place of the built model, which a unit test does not need."""

    @classmethod
    def load(cls, model_dir: Path) -> ColourEmbedder:
        return cls()

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        return super().prepare(image)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(commands, "WholeImageEmbedder", LoadedColours)
    monkeypatch.chdir(tmp_path)
    for number in range(6):
        save_picture(tmp_path / "pictures" / ("odd" if number % 2 else "even") / f"{number}.png", number)
    return tmp_path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(commands.app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def lookalike(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real command in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "lookalike.cli", "index", *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_index_is_built_searched_changed_and_checked(folder: Path) -> None:
    assert "added 6" in run("build", "pictures")
    found = json.loads(run("search", "pictures/odd/3.png", "--json", "--filter", "category=odd", "--top-k", "2"))
    assert found["hits"][0]["item_id"] == "odd/3.png"
    assert {hit["attributes"]["category"] for hit in found["hits"]} == {"odd"}
    assert "removed 1" in run("remove", "odd/3.png")
    assert "added 1" in run("add", "pictures")
    assert "is whole: 6 items" in run("verify")
    assert json.loads(run("info", "--json"))["count"] == 6


@pytest.mark.parametrize("arguments", [("remove", "x"), ("add", "pictures"), ("use", "000001-00000000")])
def test_a_change_of_an_index_that_is_not_there_makes_no_folder(folder: Path, arguments: tuple[str, ...]) -> None:
    assert CliRunner().invoke(commands.app, [*arguments, "--index-dir", "missing"]).exit_code == 1
    assert not (folder / "missing").exists()


def test_ids_to_remove_can_come_from_a_file(folder: Path) -> None:
    run("build", "pictures")
    (folder / "ids.txt").write_text("odd/1.png\nodd/3.png\nnothing\n")
    output = run("remove", "--ids-from", "ids.txt")
    assert "removed 2" in output and "unknown item_id: nothing" in output


@pytest.mark.parametrize("kind", ["auto", "hnsw", "ivf"])
def test_verify_reports_the_recall(folder: Path, kind: str) -> None:
    run("build", "pictures", "--kind", kind)
    assert "ann_recall_at_3 1.0000 over 6 queries" in run("verify", "--recall", "--k", "3")


def test_the_way_back_to_an_older_version(folder: Path) -> None:
    run("build", "pictures")
    first = json.loads(run("info", "--json"))["published"]
    run("remove", "odd/1.png")
    assert f"{first} is in use" in run("use", first)
    assert json.loads(run("info", "--json"))["count"] == 6


def test_the_tables_show_titles_and_versions(folder: Path) -> None:
    (folder / "pictures" / "odd" / "3.txt").write_text("Three [not markup]\n")
    run("build", "pictures")
    assert "[not" in run("search", "pictures/odd/3.png")
    assert "(published)" in run("info")


def test_a_filter_without_a_name_is_refused() -> None:
    with pytest.raises(InvalidOption, match="'red' is not understood"):
        commands.parse_filters(["red"])
    assert commands.parse_filters(["a=1", "a=x=y", "b="]) == {"a": ["1", "x=y"], "b": [""]}


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("info",), 1, "error: no index version is published in var/index"),
        (("build", "nothing"), 1, "error: catalogue nothing does not exist"),
        (("remove", "x"), 1, "error: no index version is published"),
        (("build",), 2, "Missing argument"),
        (("remove",), 2, "--ids-from"),
        (("build", ".", "--kind", "lsh"), 2, "'lsh' is not one of"),
        (("build", ".", "--index-dir", "/proc/nowhere"), 1, "error: "),
    ],
)
def test_errors_are_one_line_and_an_exit_code(tmp_path: Path, arguments: tuple[str, ...], code: int, told: str) -> None:
    finished = lookalike(tmp_path, *arguments)
    assert (finished.returncode, finished.stdout) == (code, "")
    assert told in finished.stderr
    assert "Traceback" not in finished.stderr
    if code == 1:
        assert finished.stderr.count("\n") == 1
