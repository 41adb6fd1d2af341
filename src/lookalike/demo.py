"""The demo: a photo that is not in the catalogue is searched over HTTP; the answer becomes a table and a picture."""

import io
import os
import random
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageOps
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lookalike.catalogue import printable
from lookalike.config import ImageLimits
from lookalike.contact_sheet import render_contact_sheet
from lookalike.errors import CorruptImage, LookalikeError, NotReady, SetupError
from lookalike.gateway.commands import serve_in_background
from lookalike.images import decode_image
from lookalike.index.faiss_index import open_index
from lookalike.index.items import ItemRecord, Items
from lookalike.scene import compose_scene
from lookalike.schemas import Attribute, Hit, SearchResponse, Subject
from lookalike.server import running_server
from lookalike.server_config import ServerFiles

QUERY_QUALITY = 80  # a phone's JPEG, not a studio's
# The best two boxes and the whole image: more candidates no longer find more (docs/evaluation.md).
SUBJECTS = 2
_WITH_ALPHA = ("PNG", "WEBP")
NEXT_STEPS = """
look at   {page} and {sheet}
go on     curl -s {page}/predictions/search -F image=@{query} -F top_k=3
          make demo IMAGES=/path/to/your/images
          docs/README.md
stop      make stop"""


def pick_item(items: Items, item_id: str | None, seed: int) -> ItemRecord:
    """Return the named item, or a random one.

    Raises:
        SetupError: when the catalogue has no such item, or is empty.
    """
    if not len(items):
        raise SetupError("the catalogue is empty: run `lookalike index build DIR` first")
    wanted = random.Random(seed).choice(items.item_ids()) if item_id is None else item_id
    record = items.record(wanted)
    if record is None:
        raise SetupError(f"the catalogue has no item {wanted!r}")
    return record


def compose_query(item: ItemRecord, seed: int) -> bytes:
    """Return a JPEG of the item pasted into a scene, rotated and relit: a photo that the catalogue does not have.

    Raises:
        SetupError: the item's image cannot be read, or is transparent all over.
    """
    try:
        original = _cut_out(Path(item.path).read_bytes())
    except (OSError, LookalikeError) as error:
        raise SetupError(f"item {item.item_id}: {item.path} cannot be read: {error}") from error
    scene, _ = compose_scene(original, None, seed)
    buffer = io.BytesIO()
    scene.save(buffer, "JPEG", quality=QUERY_QUALITY)
    return buffer.getvalue()


def _cut_out(data: bytes) -> Image.Image:
    """Return an upright image, in mode RGBA where it is a PNG or WebP with transparency."""
    decoded = decode_image(data, ImageLimits())
    if decoded.info.format not in _WITH_ALPHA:
        return decoded.pixels
    try:
        with Image.open(io.BytesIO(data), formats=_WITH_ALPHA) as image:
            if not image.has_transparency_data:
                return decoded.pixels
            return ImageOps.exif_transpose(image).convert("RGBA")
    except Exception as error:  # of what `decode_image` left aside, such as text that inflates without end
        raise CorruptImage(f"its transparency cannot be read: {error}") from error


def print_response(response: SearchResponse, console: Console) -> None:
    """Print the hits, the subject's attributes and the stage timings as tables."""
    console.print(_hits_table(response))
    if response.attributes:
        console.print("attributes of the crop: " + ", ".join(map(_attribute_words, response.attributes)))
    timings = "  ".join(f"{stage} {ms:.0f}" for stage, ms in response.timings_ms.items())
    console.print(f"stages (ms): {timings}", highlight=False)


def _hits_table(response: SearchResponse) -> Table:
    title = f"{_words(response.subject)}; index {response.index.version} with {response.index.count} items"
    table = Table(title=title, title_justify="left")
    for column, justify in (("rank", "right"), ("similarity", "right"), ("item", "left"), ("title", "left")):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("attributes")
    for rank, hit in enumerate(response.hits, start=1):
        attributes = ", ".join(f"{name} {value}" for name, value in hit.attributes.items())
        # A catalogue's words may hold what a terminal obeys.
        words = (escape(printable(text)) for text in (hit.item_id, hit.title or "", attributes))
        table.add_row(str(rank), f"{hit.similarity:.3f}", *words)
    return table


def _attribute_words(attribute: Attribute) -> str:
    if not attribute.sure:
        return f"[dim]{attribute.name} unsure[/]"
    return f"{attribute.name} [bold]{attribute.label}[/] {attribute.score:.0%}"


def _words(subject: Subject) -> str:
    box = ", ".join(f"{edge:.0f}" for edge in subject.box)
    found = f"{subject.label} {subject.score:.0%}" if subject.score is not None else subject.source
    return f"subject {found} at [{box}]"


def write_contact_sheet(query: bytes, response: SearchResponse, items: Items, path: Path) -> None:
    """Write query, crop and hits as one PNG."""

    def thumbnail(hit: Hit) -> Image.Image | None:
        item = items.record(hit.item_id)
        try:
            return decode_image(Path(item.path).read_bytes(), ImageLimits()).pixels if item else None
        except (OSError, LookalikeError):
            return None

    render_contact_sheet(decode_image(query, ImageLimits()).pixels, response, thumbnail).save(path)


def demo(
    root: Annotated[Path, typer.Option("--root", help="The project's folder.")] = Path(),
    item: Annotated[str | None, typer.Option(help="The item to photograph; a random one when left out.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses the item and draws the scene.")] = 7,
    out: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("var/demo"),
    catalogue: Annotated[list[Path] | None, typer.Option(help="A folder that the page may show pictures of.")] = None,
    browser: Annotated[bool, typer.Option(envvar="LOOKALIKE_DEMO_BROWSER", help="Open the page.")] = True,
) -> None:
    """Search the running server with a photo that is not in the catalogue, show the hits and open the page."""
    files, console = ServerFiles.of(root), Console()
    server = running_server(files.state)
    if server is None:
        raise NotReady("TorchServe is not running: `make serve` starts it")
    items = open_index(files.index_dir).items
    record = pick_item(items, item, seed)
    query = compose_query(record, seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "query.jpg").write_bytes(query)
    from lookalike.client import Client  # the extra `client`: other commands do without

    with Client(server.base_url) as client:
        response = client.search(query, subjects=SUBJECTS)
    console.print(f"photographed item [bold]{escape(record.item_id)}[/] in a scene: {out / 'query.jpg'}")
    print_response(response, console)
    write_contact_sheet(query, response, items, out / "contact_sheet.png")
    console.print(_outcome(record, response))
    page = serve_in_background(root, None, None, catalogue or ()).base_url
    steps = NEXT_STEPS.format(page=page, sheet=out / "contact_sheet.png", query=out / "query.jpg")
    console.print(steps, soft_wrap=True)  # a command that is broken over two lines cannot be copied
    if browser:
        open_in_browser(page)


def open_in_browser(url: str) -> None:
    """Open `url` where there is a screen; without one a browser would be one in text, and take the terminal."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(url)


def _outcome(record: ItemRecord, response: SearchResponse) -> str:
    ranks = [rank for rank, hit in enumerate(response.hits, start=1) if hit.item_id == record.item_id]
    return f"the photographed item came at rank {ranks[0]}" if ranks else "the photographed item is not among the hits"
