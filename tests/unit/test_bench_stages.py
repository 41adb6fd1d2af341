"""The parts of a search's time: they add up to the clock outside, and what cannot be is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import stage_parts
from benchmarks.stage_parts import Resizes, Timed, break_down, check_order, model_times_ms, stages_ms
from lookalike.errors import LookalikeError

WHOLE = Timed(
    request_id="a",
    megapixels=1,
    photo=0,
    attributes=True,
    outside_ms=60.0,
    timings_ms={"decode": 4.0, "detect": 20.0, "crop": 0.5, "embed": 16.0, "lookup": 2.5, "total": 44.0},
    box=(0, 0, 10, 10),
    unread_ms=12.0,
    models_ms={"detector": 13.0, "embedder": 11.0, "search": 45.0},
    resizes_ms=Resizes(detect_ms=3.0, embed_ms=1.0),
)
BARE = replace(WHOLE, request_id="b", attributes=False, models_ms={"detector": 13.0, "embedder": 8.0, "search": 42.0})


def test_the_parts_add_up_to_the_time_outside() -> None:
    one = break_down([WHOLE, BARE])
    assert one.parts_ms == pytest.approx(
        {
            "decode": 4,
            "detect: resize": 3,
            "detect: network": 13,
            "crop": 0.5,
            "embed: resize": 1,
            "embed: network": 8,
            "describe": 3,  # what the embedder takes more when it describes
            "look up": 2.5,
            "two hops": 20 - 13 - 3 + 16 - 11 - 1,
            "router: the rest": 1,
            "outside of the router": 12,
            "unexplained": 4,
        }
    )
    assert sum(one.parts_ms.values()) == pytest.approx(one.outside_ms)
    assert one.unexplained_share == pytest.approx(5 / 60)


def test_models_in_the_router_have_no_hops_and_no_lines_of_their_own(tmp_path: Path) -> None:
    whole = replace(WHOLE, models_ms={"search": 45.0})
    bare = replace(whole, attributes=False, timings_ms={**WHOLE.timings_ms, "embed": 13.5})
    one = break_down([whole, bare])
    assert one.parts_ms["two hops"] == 0
    assert one.parts_ms["detect: network"] == 20 - 3
    assert one.parts_ms["embed: network"] == 13.5 - 1
    assert one.parts_ms["describe"] == 16 - 13.5
    assert sum(one.parts_ms.values()) == pytest.approx(one.outside_ms)
    check_order(whole)
    (tmp_path / "server.log").write_text('{"request_id": "a", "endpoint": "search", "total_ms": 45.0}\n')
    assert model_times_ms(tmp_path / "server.log", ["a"]) == {"a": {"search": 45.0}}


def test_describing_beside_the_look_up_counts_only_as_far_as_it_is_waited_for() -> None:
    """With `describe_from: crop` the stage runs beside embedding and look-up."""
    timings = {
        "decode": 4.0,
        "detect": 20.0,
        "crop": 0.5,
        "embed": 10.0,
        "lookup": 2.5,
        "describe": 15.0,
        "total": 41.0,
    }
    assert stages_ms(timings) == 39.5
    models = {"detector": 13.0, "embedder": 8.0, "metadata_creator": 9.0, "search": 42.0}
    beside = replace(WHOLE, timings_ms=timings, models_ms=models)
    one = break_down([beside, replace(beside, attributes=False)])
    assert one.parts_ms["describe"] == 2.5
    assert sum(one.parts_ms.values()) == pytest.approx(one.outside_ms)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"outside_ms": 43.0}, "the router's total took 44.0 ms, more than the time outside, 43.0 ms: request a"),
        ({"timings_ms": {**WHOLE.timings_ms, "total": 40.0}}, "the stages took 43.0 ms, more than the router's total"),
        ({"models_ms": {"detector": 21.0, "embedder": 11.0}}, "the detector took 21.0 ms, more than the stage detect"),
        ({"models_ms": {"detector": 13.0, "embedder": 17.0}}, "the embedder took 17.0 ms, more than the stage embed"),
    ],
)
def test_what_is_longer_than_what_is_around_it_is_named(wrong: dict[str, object], named: str) -> None:
    check_order(WHOLE)
    with pytest.raises(LookalikeError, match=named):
        check_order(replace(WHOLE, **wrong))  # type: ignore[arg-type]


def test_the_models_times_are_found_by_the_search_that_called_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "server.log"
    lines = [
        {"request_id": search, "endpoint": endpoint, "total_ms": ms}
        for search in ("a", "other")
        for endpoint, ms in (("search", 45.0), ("detector", 13.0), ("embedder", 11.0))
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in [{"message": "started"}, *lines]))
    assert model_times_ms(log, ["a"]) == {"a": {"search": 45.0, "detector": 13.0, "embedder": 11.0}}
    monkeypatch.setattr(stage_parts, "_LOG_S", 0.1)
    with pytest.raises(LookalikeError, match="lacks lines of 1 searches, such as b"):
        model_times_ms(log, ["a", "b"])
