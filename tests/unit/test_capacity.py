"""The calculator against tables worked out by hand."""

import pytest
from typer.testing import CliRunner

from lookalike.capacity import Load, Node, plan
from lookalike.cli import app
from lookalike.errors import SetupError

NODE = Node(price_per_hour=0.40, cores=8, memory_gb=32)


@pytest.mark.parametrize(
    ("items", "kind", "gb"),
    [
        (1_000_000, "flat", 2.048),
        (1_000_000, "hnsw", 2.304),
        (1_000_000, "ivf", 2.192),
        (100_000_000, "hnsw", 230.4),
    ],
)
def test_an_index_takes_its_embeddings_and_links_or_codes(items, kind, gb):
    assert Load(1, items, 512, kind).index_gb == pytest.approx(gb)


def test_a_flat_look_up_takes_the_time_that_was_measured():
    assert Load(1, 100_000, 1280).lookup_s == pytest.approx(0.0166)


def test_pods_nodes_and_cost_by_hand():
    # 100 a second at 1/7.5 + 0.0013 core seconds: 13.46 cores, at 70 % 19.23, ten pods. 4.3 GB each: four a node.
    made = plan(Load(100, 1_000_000, 512, "hnsw"), NODE)
    assert (made.pods, made.nodes) == (10, 3)
    assert made.cost_per_1000 == pytest.approx(3 * 0.40 / 3600 / 100 * 1000)


def test_one_pod_or_node_may_always_be_lost():
    made = plan(Load(0.1, 1000), NODE)
    assert (made.pods, made.nodes) == (2, 2)


def test_memory_may_be_what_fills_a_node():
    few, many = plan(Load(100, 5_000_000, 512, "hnsw"), NODE), plan(Load(100, 1_000_000, 512, "hnsw"), NODE)
    assert few.pods == many.pods and few.nodes > many.nodes  # 13.5 GB a pod: two a node instead of four


def test_an_index_that_fits_on_no_node_is_said():
    with pytest.raises(SetupError, match=r"230\.4 GB of it index"):
        plan(Load(1000, 100_000_000, 512, "hnsw"), NODE)


def test_the_command_tells_the_plan():
    asked = "--node-price 0.40 --cores 8 --memory-gb 32 --searches-per-s 100 --items 1000000 --kind hnsw"
    done = CliRunner().invoke(app, ["capacity", *asked.split()])
    assert done.exit_code == 0 and "pods: 10 " in done.output and "nodes: 3" in done.output and "0.0033" in done.output
