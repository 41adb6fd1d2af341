"""The command `lookalike search`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from lookalike.demo import print_response
from lookalike.errors import NotReady, SetupError
from lookalike.index.commands import parse_filters
from lookalike.server import running_server
from lookalike.server_config import ServerFiles


def search(
    image: Annotated[Path, typer.Argument(help="The photo to search with.", dir_okay=False, exists=True)],
    url: Annotated[
        str | None, typer.Option(help="The service; the one that runs here when left out.", envvar="LOOKALIKE_URL")
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="An API key.", envvar="LOOKALIKE_API_KEY")] = None,
    top_k: Annotated[int, typer.Option(min=1, max=1000)] = 10,
    crop: Annotated[Literal["auto", "none"], typer.Option(help="none: the whole image.")] = "auto",
    filters: Annotated[
        list[str] | None, typer.Option("--filter", help="name=value; several values of a name: any of them.")
    ] = None,
    subjects: Annotated[int, typer.Option(min=1, max=10, help="Search so many of the best detections.")] = 1,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="For the whole call, attempts included.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Print the service's JSON.")] = False,
) -> None:
    """Search a running service with a photo, and print the hits."""
    try:
        from lookalike.client import Client
    except ImportError as error:
        raise SetupError(f"the client lacks a package: {error}", allowed="the extra `client`") from error
    with Client(url or _running_here(), api_key, timeout_s) as client:
        response = client.search(image, top_k=top_k, crop=crop, filters=parse_filters(filters or []), subjects=subjects)
    if as_json:
        sys.stdout.write(response.model_dump_json(exclude_none=True, indent=2) + "\n")
    else:
        print_response(response, Console())


def _running_here() -> str:
    server = running_server(ServerFiles.of(Path()).state)
    if server is None:
        raise NotReady("no service runs here", allowed="--url, or `lookalike serve`")
    return server.base_url
