"""What a growing catalogue needs: a copy in every pod while that goes, shards of an engine beyond (docs/growth.md)."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from lookalike.capacity import SEARCHES_PER_CORE, Node
from lookalike.errors import SetupError
from lookalike.growth_laws import (
    LARGEST_MEASURED,
    LAWS,
    MEASURED_DIM,
    Kind,
    build_core_s,
    check,
    delivery_s,
    embed_core_s,
    lookup_ms,
    process_bytes,
    shared_bytes,
)
from lookalike.index.choice import choose_index_kind

Form = Literal["copies", "shards"]
SIZES = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
HOURS_A_MONTH = 730
_WORKER_CORES = 2  # of a router's worker that waits for model servers; each holds the codes of its own
_LEAST = 2  # of each, so that one may be lost


@dataclass(frozen=True)
class Demand:
    """What is asked for, and what is still good enough: the limits at which the one-machine form ends."""

    searches_per_s: float
    dim: int = MEASURED_DIM
    kind: Kind | None = None  # None: the one that needs the fewest nodes
    searches_per_core: float = SEARCHES_PER_CORE
    utilisation: float = 0.7  # of the cores
    pod_base_gb: float = 2.0
    most_lookup_ms: float = 50.0  # a tenth of the budget of 500 ms
    most_delivery_h: float = 1.0  # from an edit to what serves it


@dataclass(frozen=True)
class _Layout:
    form: Form
    reasons: tuple[str, ...]  # why a copy in every pod is over; empty before
    node_index_gb: float  # on a node that holds index: all of it, or a shard
    shards: int
    replicas: int
    nodes: int


@dataclass(frozen=True)
class Need(_Layout):
    """What a catalogue of `items` needs."""

    items: int
    kind: Kind
    bytes_per_item: float
    lookup_ms: float  # of a copy, or of a shard: those are looked through side by side
    embed_core_h: float
    build_core_h: float
    delivery_h: float
    month_cost: float
    embed_cost: float  # once
    extrapolated: bool


def need(items: int, demand: Demand, node: Node) -> Need:
    """Return what `items` need on nodes like `node`.

    Raises:
        SetupError: for a count, rate, dim, price or share that means nothing, or a node that holds no pod.
    """
    check(items, demand.dim)
    _check(demand, node)
    small = choose_index_kind(items, demand.dim) == "flat"
    kinds: tuple[Kind, ...] = (demand.kind,) if demand.kind else ("flat",) if small else ("ivf", "hnsw")
    return min((_of_kind(items, kind, demand, node) for kind in kinds), key=lambda one: (one.nodes, one.build_core_h))


def _of_kind(items: int, kind: Kind, demand: Demand, node: Node) -> Need:
    workers = max(1, node.cores // _WORKER_CORES)
    a_node = items * (shared_bytes(kind, demand.dim) + workers * process_bytes(kind, demand.dim)) / 1e9
    reasons = _ends(items, kind, demand, node, a_node)
    return _shards(items, kind, demand, node, reasons) if reasons else _copies(items, kind, demand, node, a_node)


def _ends(items: int, kind: Kind, demand: Demand, node: Node, index_gb: float) -> tuple[str, ...]:
    """Return why a copy on every node is not possible or not good enough."""
    room, reasons = _room_gb(demand, node), []
    if index_gb > room:
        reasons.append(f"memory: {index_gb:,.0f} GB of index for {room:,.0f} GB of a node")
    if (hours := delivery_s(items, kind, demand.dim) / 3600) > demand.most_delivery_h:
        reasons.append(f"delivery: {hours:,.1f} h from an edit to what serves it")
    if (lookup := lookup_ms(kind, items, demand.dim)) > demand.most_lookup_ms:
        reasons.append(f"look-up: {lookup:,.0f} ms of a core")
    return tuple(reasons)


def _copies(items: int, kind: Kind, demand: Demand, node: Node, index_gb: float) -> Need:
    lookup = lookup_ms(kind, items, demand.dim)
    cores = demand.searches_per_s * (1 / demand.searches_per_core + lookup / 1000) / demand.utilisation
    nodes = max(_LEAST, math.ceil(cores / node.cores))
    layout = _Layout("copies", (), index_gb, shards=1, replicas=nodes, nodes=nodes)
    return _need(items, kind, demand, node, layout)


def _shards(items: int, kind: Kind, demand: Demand, node: Node, reasons: tuple[str, ...]) -> Need:
    """An engine's nodes hold a shard each, once, as one process; routers without an index ask all shards."""
    a_item = shared_bytes(kind, demand.dim) + process_bytes(kind, demand.dim)
    by_memory = math.ceil(items * a_item / 1e9 / _room_gb(demand, node))
    shards = max(2, by_memory, _shards_by_lookup(items, kind, demand))
    held = math.ceil(items / shards)
    cores = demand.searches_per_s * lookup_ms(kind, held, demand.dim) / 1000 / demand.utilisation
    replicas = max(_LEAST, math.ceil(cores / node.cores))
    router_cores = demand.searches_per_s / demand.searches_per_core / demand.utilisation
    routers = max(_LEAST, math.ceil(router_cores / node.cores))
    layout = _Layout("shards", reasons, held * a_item / 1e9, shards, replicas, nodes=shards * replicas + routers)
    return _need(items, kind, demand, node, layout)


def _shards_by_lookup(items: int, kind: Kind, demand: Demand) -> int:
    """Return the fewest shards, by doubling, of which one is looked through quickly enough."""
    shards = 1
    while lookup_ms(kind, max(1, items / shards), demand.dim) > demand.most_lookup_ms and shards < items:
        shards *= 2
    return shards


def _need(items: int, kind: Kind, demand: Demand, node: Node, layout: _Layout) -> Need:
    held = math.ceil(items / layout.shards)
    embed_h = embed_core_s(items) / 3600
    return Need(
        items=items,
        kind=kind,
        **vars(layout),
        bytes_per_item=shared_bytes(kind, demand.dim) + process_bytes(kind, demand.dim),
        lookup_ms=lookup_ms(kind, held, demand.dim),
        embed_core_h=embed_h,
        build_core_h=layout.shards * build_core_s(kind, held, demand.dim) / 3600,
        delivery_h=delivery_s(items, kind, demand.dim) / 3600,
        month_cost=layout.nodes * node.price_per_hour * HOURS_A_MONTH,
        embed_cost=embed_h / node.cores * node.price_per_hour,
        extrapolated=items > LARGEST_MEASURED or demand.dim != MEASURED_DIM,
    )


def _room_gb(demand: Demand, node: Node) -> float:
    return node.memory_gb - node.reserved_gb - demand.pod_base_gb


def _check(demand: Demand, node: Node) -> None:
    positive = {
        "searches a second": demand.searches_per_s,
        "searches a core": demand.searches_per_core,
        "cores of a node": node.cores,
        "ms of a look-up": demand.most_lookup_ms,
        "hours of a delivery": demand.most_delivery_h,
    }
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise SetupError(f"{value} {name}", allowed="more than 0")
    if not 0 < demand.utilisation <= 1:
        raise SetupError(f"a utilisation of {demand.utilisation}", allowed="more than 0, up to 1")
    if not (math.isfinite(node.price_per_hour) and node.price_per_hour >= 0):
        raise SetupError(f"a price of {node.price_per_hour} for an hour", allowed="0 or more")
    if _room_gb(demand, node) <= 0:
        taken = node.reserved_gb + demand.pod_base_gb
        raise SetupError(f"a node of {node.memory_gb:g} GB leaves none for an index", allowed=f"more than {taken:g} GB")


def growth(
    node_price: Annotated[float, typer.Option(min=0.0, help="Of one node, for an hour, in your currency.")],
    cores: Annotated[int, typer.Option(min=1, help="Of one node.")],
    memory_gb: Annotated[float, typer.Option(min=1.0, help="Of one node.")],
    searches_per_s: Annotated[float, typer.Option(min=0.01, help="At the busiest time.")],
    items: Annotated[list[int] | None, typer.Option(min=1, help="Of the catalogue; may be given again.")] = None,
    dim: Annotated[int, typer.Option(min=1, help="Numbers in an embedding.")] = MEASURED_DIM,
    kind: Annotated[Kind | None, typer.Option(help="Of the index; left out: what needs the fewest nodes.")] = None,
    searches_per_core: Annotated[float, typer.Option(min=0.01, help="As benchmarks.open_loop measures it.")] = 7.5,
    utilisation: Annotated[float, typer.Option(min=0.1, max=1.0, help="Of the cores.")] = 0.7,
    most_lookup_ms: Annotated[float, typer.Option(min=0.1, help="Of a core; more needs shards.")] = 50,
    most_delivery_h: Annotated[float, typer.Option(min=0.01, help="Of a version; more needs an engine.")] = 1,
) -> None:
    """Say what 1 million to 1,000 million items need, and where one copy in every pod ends (docs/growth.md)."""
    demand = Demand(
        searches_per_s,
        dim,
        kind,
        searches_per_core,
        utilisation,
        most_lookup_ms=most_lookup_ms,
        most_delivery_h=most_delivery_h,
    )
    node = Node(node_price, cores, memory_gb)
    found = [need(count, demand, node) for count in items or SIZES]
    Console(width=200).print(_table(found), highlight=False)
    for one in found:
        for reason in one.reasons:
            typer.echo(f"{one.items:,} items, a copy in every pod is over by {reason}")
    for law in sorted({f"{one.kind}: {LAWS[one.kind]}" for one in found if one.extrapolated}):
        typer.echo(f"* extrapolated, {law}")


def _table(found: list[Need]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("items", "kind", "form", "bytes an item", "GB on a node", "shards x replicas", "nodes"):
        table.add_column(name, justify="left" if name in ("kind", "form") else "right")
    for name in ("look-up ms", "embed core h", "build core h", "deliver h", "a month", "embedding"):
        table.add_column(name, justify="right")
    for one in found:
        mark = "*" if one.extrapolated else ""
        cells = [f"{one.items:,}{mark}", one.kind, one.form, f"{one.bytes_per_item:,.0f}", f"{one.node_index_gb:,.1f}"]
        cells += [f"{one.shards} x {one.replicas}", f"{one.nodes:,}", f"{one.lookup_ms:,.1f}"]
        cells += [f"{one.embed_core_h:,.0f}", f"{one.build_core_h:,.1f}", f"{one.delivery_h:,.2f}"]
        table.add_row(*cells, f"{one.month_cost:,.0f}", f"{one.embed_cost:,.0f}")
    return table
