"""The commands `lookalike web` and `lookalike keys new`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from lookalike.errors import SetupError
from lookalike.gateway.process import OTHER_PORT, GatewayProcess, running_gateway, start_gateway, stop_gateway
from lookalike.labels.head import CARD_FILE
from lookalike.server import running_server
from lookalike.server_config import ServerFiles, require_free

if TYPE_CHECKING:
    from lookalike.gateway.settings import GatewaySettings

app = typer.Typer()
keys_app = typer.Typer(no_args_is_help=True, help="API keys of the gateway.")
Role = Annotated[str, typer.Option(help="read: searches and pictures; admin: items, snapshots and all that read may.")]


@app.command()
def web(
    root: Annotated[Path, typer.Option("--root", help="The project's folder.", file_okay=False, exists=True)] = Path(),
    config: Annotated[Path | None, typer.Option(help="A YAML file with settings.", dir_okay=False)] = None,
    port: Annotated[int | None, typer.Option(help="0: the operating system chooses.")] = None,
    catalogue: Annotated[
        list[Path] | None, typer.Option(help="A folder that thumbnails may be made from; may be repeated.")
    ] = None,
    background: Annotated[bool, typer.Option("--background", help="Return when it answers.")] = False,
) -> None:
    """Serve the page and the API in front of TorchServe, until interrupted; one in the background makes place."""
    if background:
        typer.echo(f"the page: {serve_in_background(root, config, port, catalogue or ()).base_url}")
        return
    settings = _settings(root, config, port, catalogue or ())
    from lookalike.gateway.serving import serve

    end_the_one_in_the_background(ServerFiles.of(root).state)
    require_free(settings.host, settings.port, OTHER_PORT)
    serve(settings)


def end_the_one_in_the_background(state: Path) -> None:
    """Stop the gateway whose state file lies in `state`, unless it is this very process."""
    running = running_gateway(state)
    # What starts in the background comes by here, too, and finds itself.
    if running is not None and running.pid != os.getpid():
        typer.echo(f"the page that ran in the background makes place: {running.base_url}")
        stop_gateway(state)


def serve_in_background(root: Path, config: Path | None, port: int | None, catalogue: Sequence[Path]) -> GatewayProcess:
    """Start the gateway anew in the background: what was set or built since the last start is in force."""
    settings = _settings(root, config, port, catalogue)
    state = ServerFiles.of(root).state
    stop_gateway(state)
    arguments = ["--root", str(root), *(["--config", str(config)] if config else [])]
    arguments += [text for folder in catalogue for text in ("--catalogue", str(folder))]
    return start_gateway(arguments, settings.host, settings.port, state)


def _settings(root: Path, config: Path | None, port: int | None, catalogue: Sequence[Path]) -> "GatewaySettings":
    try:
        import uvicorn  # noqa: F401  # what is missing is told before anything is started

        from lookalike.gateway.settings import GatewaySettings
    except ImportError as error:
        raise SetupError(
            f"the gateway needs more packages: {error}", allowed="pip install lookalike[gateway]"
        ) from error
    files = ServerFiles.of(root)
    section: dict[str, Any] = {
        "web_dir": root / "web",
        "index_dir": files.index_dir,
        "cache_dir": files.state / "cache/thumbnails",
    }
    # Which of them are served, their server is asked.
    section["label_tasks"] = [path.parent.name for path in sorted(root.glob(f"var/models/*/{CARD_FILE}"))]
    if (server := running_server(files.state)) is not None:
        section["upstream_url"] = server.base_url
    section |= _read(config)
    if catalogue:
        section["catalogue_roots"] = [*section.get("catalogue_roots", ()), *catalogue]
    if port is not None:
        section["port"] = port
    return GatewaySettings.load(section)


@keys_app.command("new")
def new(role: Role, name: Annotated[str, typer.Option(help="Stands in the log.")]) -> None:
    """Make an API key: the secret on stdout, once; and the entry for the settings on stderr."""
    from lookalike.gateway.keys import new_key

    if role not in ("read", "admin"):
        raise typer.BadParameter(f"{role!r} is no role", param_hint="--role")
    try:
        secret, key = new_key(name, role)  # type: ignore[arg-type]
    except ValueError as error:
        raise typer.BadParameter("letters, digits, dot, dash and underscore", param_hint="--name") from error
    typer.echo(secret)
    typer.echo("the key is shown this once; the settings get its digest:", err=True)
    typer.echo(f"LOOKALIKE_GATEWAY_KEYS='[\"{key.entry()}\"]'", err=True)


def _read(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        section = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SetupError(f"{config} is no YAML: {error}") from error
    if not isinstance(section, dict | None):
        raise SetupError(f"{config} holds no settings", allowed="name: value")
    return section or {}
