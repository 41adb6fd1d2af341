"""How many pods and nodes a load needs, and what 1,000 searches cost: arithmetic on measured figures and a price."""

import math
from dataclasses import dataclass
from typing import Annotated

import typer

from lookalike.errors import SetupError
from lookalike.index.manifest import Kind

# docs/benchmarks.md: 15 searches a second at p99 <= 500 ms on two cores, a whole search with its networks.
SEARCHES_PER_CORE = 7.5
# docs/benchmarks.md: 100,000 x 1280 float32 in 16.6 ms; 1,000,000 x 512 through the graph and through the lists.
FLAT_BYTES_PER_S = 100_000 * 1280 * 4 / 16.6e-3
LOOKUP_S = {"hnsw": 1.3e-3, "ivf": 3.6e-3}
HNSW_M = 32


@dataclass(frozen=True)
class Load:
    """What is asked for: searches a second over an index of `items` embeddings of `dim` numbers."""

    searches_per_s: float
    items: int
    dim: int = 512
    kind: Kind = "flat"

    @property
    def index_gb(self) -> float:
        """The index in memory: float32 embeddings, and `2 * M` links of 4 bytes an item or codes of 2 bits a number."""
        besides = {"flat": 0, "hnsw": 8 * HNSW_M, "ivf": self.dim / 4 + 16}
        return self.items * (4 * self.dim + besides[self.kind]) / 1e9

    @property
    def lookup_s(self) -> float:
        """Core seconds of one look-up."""
        return LOOKUP_S[self.kind] if self.kind in LOOKUP_S else self.items * self.dim * 4 / FLAT_BYTES_PER_S


@dataclass(frozen=True)
class Node:
    """A node as a cloud sells it; `reserved_gb` is what the system and its daemons take."""

    price_per_hour: float
    cores: int
    memory_gb: float
    reserved_gb: float = 2.0


@dataclass(frozen=True)
class Plan:
    """What the load needs; every pod holds everything, and a copy of the index (docs/adr/0007)."""

    pods: int
    nodes: int
    pod_memory_gb: float
    cost_per_1000: float


def plan(
    load: Load,
    node: Node,
    pod_cores: int = 2,
    pod_base_gb: float = 2.0,
    searches_per_core: float = SEARCHES_PER_CORE,
    utilisation: float = 0.7,
) -> Plan:
    """Return the pods and nodes for `load`, with two of each at least so that one may be lost.

    `searches_per_core` is the rate at which a core meets the budget without a look-up; `utilisation` of it is used.

    Raises:
        SetupError: when a pod with its copy of the index fits on no such node.
    """
    memory = pod_base_gb + load.index_gb
    room = node.memory_gb - node.reserved_gb
    on_a_node = min(node.cores // pod_cores, int(room // memory))
    if on_a_node < 1:
        raise SetupError(
            f"a pod of {pod_cores} cores and {memory:.1f} GB, {load.index_gb:.1f} GB of it index, fits on no such node",
            allowed=f"up to {node.cores} cores and {room:.1f} GB; a smaller dim, or a larger node",
        )
    core_s = 1 / searches_per_core + load.lookup_s
    pods = max(2, math.ceil(load.searches_per_s * core_s / utilisation / pod_cores))
    nodes = max(2, math.ceil(pods / on_a_node))
    return Plan(pods, nodes, memory, nodes * node.price_per_hour / 3600 / load.searches_per_s * 1000)


def capacity(
    node_price: Annotated[float, typer.Option(min=0.0, help="Of one node, for an hour, in your currency.")],
    cores: Annotated[int, typer.Option(min=1, help="Of one node.")],
    memory_gb: Annotated[float, typer.Option(min=1.0, help="Of one node.")],
    searches_per_s: Annotated[float, typer.Option(min=0.01, help="At the busiest time.")],
    items: Annotated[int, typer.Option(min=1, help="Of the catalogue.")],
    dim: Annotated[int, typer.Option(min=1, help="Numbers in an embedding.")] = 512,
    kind: Annotated[Kind, typer.Option(help="Of the index.")] = "flat",
    pod_cores: Annotated[int, typer.Option(min=1)] = 2,
    searches_per_core: Annotated[float, typer.Option(min=0.01, help="As benchmarks.open_loop measures it.")] = 7.5,
    utilisation: Annotated[float, typer.Option(min=0.1, max=1.0, help="Of the rate that meets the budget.")] = 0.7,
) -> None:
    """Say how many pods and nodes a load needs, and what 1,000 searches cost (docs/capacity.md)."""
    load, node = Load(searches_per_s, items, dim, kind), Node(node_price, cores, memory_gb)
    made = plan(load, node, pod_cores, searches_per_core=searches_per_core, utilisation=utilisation)
    typer.echo(f"index: {load.index_gb:.1f} GB in every pod, {1000 * load.lookup_s:.1f} ms of a core for a look-up")
    typer.echo(f"pods: {made.pods} of {pod_cores} cores and {made.pod_memory_gb:.1f} GB")
    typer.echo(f"nodes: {made.nodes}")
    typer.echo(f"1,000 searches: {made.cost_per_1000:.4f}, at this rate around the clock")
