"""The command's own parts: a second Lookalike's settings, models that are built anew meanwhile, missing peers."""

import argparse
import json
import os
import shutil
from pathlib import Path

import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import install
from benchmarks.peers.errors import AnswersDiffer
from benchmarks.peers.systems import Lookalike, _environment_with
from lookalike.clients import MODEL_NAMES
from lookalike.errors import SetupError


@pytest.mark.parametrize("text", ["LOOKALIKE_ROUTER_THREADS=2", "LOOKALIKE_MODEL_LIMITS=a=b"])
def test_a_known_setting_is_read(text):
    name, _, value = text.partition("=")
    assert command.setting(text) == (name, value)


@pytest.mark.parametrize("text", ["LOOKALIKE_ROUTER_THREAD=2", "THREADS=2", "LOOKALIKE_ROUTER_THREADS", "=2", ""])
def test_an_unknown_setting_is_refused_with_those_that_exist(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"LOOKALIKE_SERVER_HOST, .*LOOKALIKE_ROUTER_THREADS"):
        command.setting(text)


def test_a_lookalike_with_settings_of_its_own_is_named_after_them():
    assert Lookalike(Path("index")).name == "Lookalike"
    assert Lookalike(Path("index"), {"LOOKALIKE_ROUTER_THREADS": "2"}).name == "Lookalike LOOKALIKE_ROUTER_THREADS=2"


def test_settings_are_in_the_environment_inside_the_block_alone(monkeypatch):
    monkeypatch.setenv("LOOKALIKE_ROUTER_THREADS", "4")
    monkeypatch.delenv("LOOKALIKE_MODEL_THREADS", raising=False)
    with _environment_with({"LOOKALIKE_ROUTER_THREADS": "2", "LOOKALIKE_MODEL_THREADS": "1"}):
        assert (os.environ["LOOKALIKE_ROUTER_THREADS"], os.environ["LOOKALIKE_MODEL_THREADS"]) == ("2", "1")
    assert os.environ["LOOKALIKE_ROUTER_THREADS"] == "4"
    assert "LOOKALIKE_MODEL_THREADS" not in os.environ


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Three described models under a root of their own; returns what builds them with a recipe."""
    monkeypatch.setattr(command, "ROOT", tmp_path)

    def build(recipe):
        for name in MODEL_NAMES:
            folder = tmp_path / "var/models" / name
            folder.mkdir(parents=True, exist_ok=True)
            described = {"name": name, "version": "1", "architecture": "a", "fingerprint": "f", "licence": "l"}
            (folder / "model.json").write_text(json.dumps(described | {"recipe": recipe, "files": {}}))

    build("first")
    return build


def test_models_built_anew_meanwhile_are_told_in_place_of_the_answers_that_differ(models):
    with (
        pytest.raises(SetupError, match="built anew while they were compared"),
        command.models_unchanged(command.built_models()),
    ):
        models("second")
        raise AnswersDiffer("the hits are others")


def test_models_built_anew_meanwhile_are_told_where_no_answer_differs(models):
    with pytest.raises(SetupError, match="run it again"), command.models_unchanged(command.built_models()):
        models("second")


def test_answers_that_differ_on_the_same_models_are_told_as_they_are(models):
    with pytest.raises(AnswersDiffer, match="the hits"), command.models_unchanged(command.built_models()):
        raise AnswersDiffer("the hits are others")


def test_a_model_that_is_not_built_is_named(models, tmp_path):
    shutil.rmtree(tmp_path / "var/models/embedder")
    with pytest.raises(SetupError, match=r"cannot read .*embedder/model\.json"):
        command.compared(command.arguments_in([]))


def test_a_peer_without_its_environment_is_named_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "HOME", tmp_path)
    ready, left_out = command.usable(["fastapi", "ray"], with_install=False)
    assert ready == []
    assert list(left_out) == ["fastapi", "ray"]
    assert "run with --install" in left_out["ray"]
