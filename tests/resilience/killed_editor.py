"""What a process does that edits an index, publishes it to a store, or serves it, until it is killed.

What is acknowledged goes into a file as one line, written when the call has returned.
"""

from pathlib import Path

from lookalike.catalogue import Catalogue, Item
from lookalike.delivery.index_store import IndexStore
from lookalike.delivery.store import open_store
from lookalike.gateway.serving import serve
from lookalike.gateway.settings import GatewaySettings
from lookalike.index.edits import IndexEditor
from lookalike.index.layout import IndexLayout
from tests.slow_edits import OPTIONS, SETTINGS, SlowColours


def items(pictures: Path, numbers: list[int]) -> Catalogue:
    """Return pictures that are there as a catalogue."""
    return Catalogue(pictures, [Item(item_id=f"item-{n}", path=pictures / f"{n}.png") for n in numbers])


def edit(index_dir: Path, pictures: Path, store: Path, action: str, numbers: list[int], told: Path) -> None:
    """Do one edit of the items with these numbers; tell the file `told` when it begins and which version it made."""
    editor = IndexEditor(index_dir, SETTINGS, OPTIONS)
    catalogue = items(pictures, numbers) if action in ("ingest", "add") else None
    with told.open("a", buffering=1) as lines:
        lines.write("started\n")
        if action == "publish":
            target = IndexStore(open_store(str(store)))
            version = target.publish(IndexLayout(index_dir).published_dir(), target.pointers().current).version
        elif action == "remove":
            version = editor.remove([f"item-{n}" for n in numbers]).manifest.version
        else:
            assert catalogue is not None
            change = editor.build if action == "ingest" else editor.add
            version = change(catalogue, SlowColours()).manifest.version
        lines.write(f"done {version}\n")


def serve_gateway(settings: GatewaySettings) -> None:
    """Run the gateway, as `lookalike web` does."""
    serve(settings)
