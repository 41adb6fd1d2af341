"""The load tests on a real server: the clients of the locustfile, the open loop, and the parts of a search's time."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks import gate, load, open_loop
from benchmarks.hardware import this_hardware
from benchmarks.photo_mix import PhotoKind, encode_photo
from benchmarks.private_server import connect
from benchmarks.stage_breakdown import SCENES, search_all, with_other_clocks
from benchmarks.stage_parts import break_down, check_order
from lookalike.golden.draw import draw_golden_image
from lookalike.scene import compose_scene
from lookalike.server import ServerProcess

ENDPOINTS = {"search", "two_trip", "two_trip.detector", "two_trip.search", "detector", "metadata_creator"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small photos in three formats."""
    folder = tmp_path_factory.mktemp("photos")
    scene, _ = compose_scene(draw_golden_image().convert("RGBA").resize((400, 300)), None, 5)
    for suffix, form in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")):
        kind = PhotoKind(name="small", format=form, megapixels=0.3, weight=1)  # type: ignore[arg-type]
        (folder / f"photo.{suffix}").write_bytes(encode_photo(scene, kind))
    return folder


def write_budgets(path: Path, **endpoints: dict[str, float]) -> Path:
    machine = {
        "hardware": this_hardware().model_dump(),
        "tasks_per_s": 5,
        "endpoints": endpoints,
        "open_loop": {"p99_ms": 1000, "error_share": 0},
    }
    document = {
        "unknown_hardware_tasks_per_s": 1,
        "growth": {"p50_ms": 2, "p95_ms": 2},
        "machines": {"this": machine},
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_clients_use_every_endpoint_and_a_missed_budget_fails_the_run(
    server: ServerProcess,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gate, "BASELINES", tmp_path / "none")  # not those that this checkout has of this hardware
    roomy, impossible = {"p50_ms": 20_000.0, "error_share": 0.0}, {"p50_ms": 1.0, "error_share": 0.0}
    budgets = write_budgets(tmp_path / "budgets.yaml", search=roomy, two_trip=impossible)
    out = tmp_path / "out"
    arguments = ["--host", server.base_url, "--photos", str(photos), "--budgets", str(budgets), "--out", str(out)]
    assert load.main([*arguments, "--seconds", "20"]) == 1
    told = capsys.readouterr().out
    assert "| steady | search | p50_ms | budget | 2e+04 |" in told
    # whether the clients hold their rate for 20 s is this machine's business, not the run's
    missed = [line for line in told.splitlines() if "**" in line and "tasks_per_s" not in line]
    assert len(missed) == 1
    assert missed[0].startswith("| steady | two_trip | p50_ms | budget | 1 |")
    (run_dir,) = out.iterdir()
    samples = [json.loads(line) for path in run_dir.glob("samples-*") for line in path.read_text().splitlines()]
    assert {sample["endpoint"] for sample in samples} == ENDPOINTS
    assert not [sample for sample in samples if sample["error"]]
    assert {sample["photo"] for sample in samples} == {"JPEG 0 MP", "PNG 0 MP", "WEBP 0 MP"}
    start_s, end_s = (json.loads(line)["start_s"] for line in (run_dir / "phases.jsonl").read_text().splitlines()[1:])
    latencies = [s["latency_ms"] for s in samples if s["endpoint"] == "search" and start_s <= s["start_s"] < end_s]
    figures = json.loads((run_dir / "record.json").read_text())["figures"]["steady"]["search"]
    assert figures["n"] == len(latencies) >= 15
    assert figures["p95_ms"] == pytest.approx(np.percentile(latencies, 95))


def test_a_server_that_is_not_there_and_a_host_that_is_none_are_told_in_a_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--photos", str(photos), "--out", str(tmp_path)]
    assert load.main([*arguments, "--host", "http://127.0.0.1:9"]) == 1
    assert capsys.readouterr().err == "error: http://127.0.0.1:9 is not ready: server: does not listen yet\n"
    assert open_loop.main([*arguments, "--host", "localhost:8080", "--p99-ms", "100"]) == 1
    assert capsys.readouterr().err == "error: --host localhost:8080 is no URL (allowed: http://NAME:PORT)\n"
    assert load.main(["--machine", "none"]) == 1
    assert "has no machine 'none' (allowed: " in capsys.readouterr().err


def test_the_open_loop_finds_a_rate_and_leaves_a_picture_and_raw_samples(
    server: ServerProcess, photos: Path, tmp_path: Path
) -> None:
    # The budget is far above what other work on the machine adds.
    arguments = ["--host", server.base_url, "--photos", str(photos), "--out", str(tmp_path), "--p99-ms", "2000"]
    short = ["--samples", "30", "--seconds", "1", "--warm-up-s", "0.5", "--precision", "1", "--warm-up-requests", "10"]
    assert open_loop.main([*arguments, *short]) == 0
    (out,) = tmp_path.iterdir()
    assert (out / "open_loop.png").read_bytes().startswith(b"\x89PNG")
    report: dict[str, Any] = json.loads((out / "open_loop.json").read_text())
    searched = [probe for probe in report["probes"][:-1] if not probe["error_share"]]
    met = [probe["rate_per_s"] for probe in searched if probe["p99_ms"] <= 2000]
    assert report["highest_rate_per_s"] == pytest.approx(max(met))
    usual = report["probes"][-1]
    assert usual["rate_per_s"] == pytest.approx(0.7 * max(met))
    latencies = [sample["latency_ms"] for sample in usual["samples"]]
    assert len(latencies) >= 30
    assert report["p99_ms_at_usual_load"] == pytest.approx(np.percentile(latencies, 99))


def test_the_open_loop_offers_the_rates_that_are_named(
    server: ServerProcess, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--host", server.base_url, "--photos", str(photos), "--out", str(tmp_path), "--p99-ms", "1"]
    short = ["--samples", "10", "--seconds", "1", "--warm-up-s", "0.5", "--warm-up-requests", "2"]
    assert open_loop.main([*arguments, *short, "--rates", "8", "4"]) == 0
    (out,) = tmp_path.iterdir()
    assert (out / "open_loop.png").read_bytes().startswith(b"\x89PNG")
    report: dict[str, Any] = json.loads((out / "open_loop.json").read_text())
    assert [probe["rate_per_s"] for probe in report["probes"]] == [8, 4]
    assert (report["highest_rate_per_s"], report["p99_ms_at_usual_load"]) == (None, None)
    assert "highest rate" not in capsys.readouterr().out


def test_the_parts_of_a_search_are_held_against_the_clock_outside(server: ServerProcess, photos: Path) -> None:
    sample = {0.3: [(photos / "photo.jpg").read_bytes()] * SCENES}
    with closing(connect(server)) as client:
        searches = with_other_clocks(search_all(client, sample, 10, 2), sample, server.log_file)
    assert len(searches) == 20
    for search in searches:
        check_order(search)
    one = break_down(searches)
    assert sum(one.parts_ms.values()) == pytest.approx(one.outside_ms)
    assert abs(one.unexplained_share) < 0.3
    assert one.parts_ms["detect: network"] > 1
    assert one.parts_ms["two hops"] > 0
