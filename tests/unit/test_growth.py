"""The growth of a catalogue: the measured figures as they stand in the docs, laws that grow, limits that are named."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lookalike.capacity import Load, Node
from lookalike.cli import app
from lookalike.errors import SetupError
from lookalike.growth import SIZES, Demand, need
from lookalike.growth_laws import (
    EMBEDDED_PER_CORE_S,
    LAWS,
    MEASURED,
    build_core_s,
    delivery_s,
    embed_core_s,
    lookup_ms,
    process_bytes,
    shared_bytes,
)

DOCS = Path(__file__).parents[2] / "docs"
NODE = Node(price_per_hour=0.40, cores=8, memory_gb=32)
DEMAND = Demand(searches_per_s=100)
KINDS = ["flat", "ivf", "hnsw"]
counts = st.integers(1, 10**12)


@pytest.mark.parametrize("kind", KINDS)
@given(fewer=counts, more=counts)
def test_more_items_never_cost_less(kind, fewer, more):
    fewer, more = sorted((fewer, more))
    for law in (lookup_ms, build_core_s):
        assert 0 <= law(kind, fewer) <= law(kind, more)
    assert delivery_s(fewer, kind) <= delivery_s(more, kind) and embed_core_s(fewer) <= embed_core_s(more)
    assert lookup_ms(kind, fewer) <= lookup_ms("flat", fewer)


@pytest.mark.parametrize("kind", KINDS)
def test_the_laws_go_through_what_was_measured(kind):
    small, large = MEASURED[kind]
    assert lookup_ms(kind, large.items) == large.lookup_ms
    assert build_core_s(kind, large.items) == pytest.approx(large.build_core_s)
    assert lookup_ms(kind, small.items) == pytest.approx(small.lookup_ms, rel=0.1)


def test_the_measurements_are_those_of_the_documentation():
    benchmarks = (DOCS / "benchmarks.md").read_text()
    rows = {"flat": r"exact \(`kind: flat`\)", "ivf": r"ivf \(`kind: ivf`\)", "hnsw": r"hnsw \(`kind: hnsw`\)"}
    small, large = benchmarks.split("**real, 100,000 x 512**")[1].split("**real, 1,000,000 x 512**")
    large = large.split("**made-up")[0]
    for kind, row in rows.items():
        for table, measured in zip((small, large), MEASURED[kind], strict=True):
            line = next(line for line in table.splitlines() if re.match(rf"\| {row}", line))
            _, _, _, recall, p50, *_, built, _ = (cell.strip() for cell in line.split("|"))
            if (kind, measured.items) != ("ivf", 1_000_000):  # whose row is of 128 probes
                assert (float(recall), float(p50)) == (measured.ann_recall_at_10, measured.lookup_ms)
            if kind == "ivf":
                assert float(built.split(" ")[0]) == measured.build_core_s
            if kind == "hnsw":
                assert 2 * float(built.strip("()")) == measured.build_core_s
    assert "| `ivf` | 0.997 | 3.6 ms |" in (DOCS / "index.md").read_text()
    assert f"ingest of 1 MP JPEGs {2 * EMBEDDED_PER_CORE_S:.0f} to" in benchmarks
    assert "(225 MB) took 3.9 s into a store and 2.9 s out of it" in (DOCS / "delivery.md").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_takes_the_bytes_of_the_capacity_page(kind):
    assert shared_bytes(kind, 512) + process_bytes(kind, 512) == pytest.approx(Load(1, 10**9, 512, kind).index_gb)


def test_a_million_by_hand():
    # 100 a second at 1/7.5 + 0.0036 core seconds: 13.69 cores, at 70 % 19.56, three nodes of 8; four workers' codes.
    one = need(1_000_000, DEMAND, NODE)
    assert (one.kind, one.form, one.shards, one.nodes, one.reasons, one.extrapolated) == (
        "ivf",
        "copies",
        1,
        3,
        (),
        False,
    )
    assert one.node_index_gb == pytest.approx(2.048 + 4 * 0.144)
    assert one.embed_core_h == pytest.approx(1e6 / 26.5 / 3600)
    assert one.month_cost == pytest.approx(3 * 0.40 * 730)
    assert one.embed_cost == pytest.approx(one.embed_core_h / 8 * 0.40)
    assert one.delivery_h == pytest.approx(2.192e9 / 225e6 * 6.8 / 3600)


def test_a_hundred_million_by_hand():
    # 28 GB of a node for an index: 219.2 GB are eight shards of 12.5 million, of 3.6 ms x root of 12.5 each.
    one = need(100_000_000, replace(DEMAND, kind="ivf"), NODE)
    assert (one.form, one.shards, one.replicas, one.extrapolated) == ("shards", 8, 2, True)
    assert one.lookup_ms == pytest.approx(3.6 * math.sqrt(12.5))
    assert one.nodes == 8 * 2 + 3
    assert [reason.partition(":")[0] for reason in one.reasons] == ["memory", "delivery"]
    assert one.build_core_h == pytest.approx(8 * 333 * 12.5**1.5 / 3600)


def test_one_copy_ends_by_each_limit_alone():
    roomy = Node(1, 64, 4096)
    easy = replace(DEMAND, kind="hnsw", most_delivery_h=1000, most_lookup_ms=1000)
    assert need(1_000_000_000, easy, roomy).reasons == ()
    (late,) = need(1_000_000_000, replace(easy, most_delivery_h=1), roomy).reasons
    assert late.startswith("delivery: 19.3 h")
    (slow,) = need(10_000_000, replace(easy, kind="flat", most_lookup_ms=50), roomy).reasons
    assert slow.startswith("look-up: 1,813 ms")
    (large,) = need(10_000_000, easy, Node(1, 64, 20)).reasons
    assert large.startswith("memory: 23 GB of index for 16 GB")


def test_shards_are_enough_for_the_look_up_and_for_the_memory():
    for kind in KINDS:
        one = need(10_000_000, replace(DEMAND, kind=kind, most_lookup_ms=2), NODE)
        assert one.lookup_ms <= 2 and one.node_index_gb <= 28


@given(items=st.integers(1, 10**10), rate=st.floats(0.01, 1e5), cores=st.integers(1, 256), memory=st.floats(5, 4096))
def test_whatever_is_asked_fits_and_one_may_be_lost(items, rate, cores, memory):
    one = need(items, Demand(rate), Node(1, cores, memory))
    assert one.replicas >= 2 and one.nodes >= 2 and one.shards >= 1
    assert one.node_index_gb <= memory - 4 + 1e-5  # the last item of a shard
    assert (one.form == "shards") == bool(one.reasons)
    assert need(items, Demand(2 * rate), Node(1, cores, memory)).nodes >= one.nodes


def test_a_small_catalogue_is_compared_exactly():
    assert need(20_000, DEMAND, NODE).kind == "flat"
    assert need(1, DEMAND, NODE).nodes == 3


@pytest.mark.parametrize(
    ("items", "demand", "node", "told"),
    [
        (0, {}, {}, "a catalogue of 0 items"),
        (1, {"dim": 0}, {}, "embeddings of 0 numbers"),
        (1, {"searches_per_s": 0}, {}, "0 searches a second"),
        (1, {"searches_per_s": math.nan}, {}, "nan searches a second"),
        (1, {"utilisation": 1.5}, {}, "a utilisation of 1.5"),
        (1, {"most_lookup_ms": -1}, {}, "-1 ms of a look-up"),
        (1, {}, {"cores": 0}, "0 cores of a node"),
        (1, {}, {"price_per_hour": -0.1}, "a price of -0.1"),
        (1, {}, {"memory_gb": 4}, "a node of 4 GB leaves none for an index"),
    ],
)
def test_what_means_nothing_is_refused(items, demand, node, told):
    with pytest.raises(SetupError, match=re.escape(told)):
        need(items, replace(DEMAND, **demand), replace(NODE, **node))


def test_the_page_shows_what_the_command_says():
    page = (DOCS / "growth.md").read_text()
    for command, shown in re.findall(r"\$ lookalike (growth [^\n]*)\n(.*?)```", page, re.DOTALL):
        done = CliRunner().invoke(app, command.split())
        assert done.exit_code == 0
        assert [line.split() for line in done.output.splitlines()] == [line.split() for line in shown.splitlines()]
    assert page.count("$ lookalike growth") == 2
    assert all(law in page for law in LAWS.values())
    assert len(SIZES) == 4
