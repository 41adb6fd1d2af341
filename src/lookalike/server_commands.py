"""The commands around the server: `archives`, `serve`, `stop`, `status`; run from the project's folder."""

from pathlib import Path
from typing import Annotated

import typer

from lookalike.archives import ArchiveSources, build_archives
from lookalike.delivery.model_sets import verified_archives
from lookalike.gateway.process import running_gateway, stop_gateway
from lookalike.server import ServerProcess, become_server, running_server, start_server, stop_server
from lookalike.server_config import ServerFiles, ServerSettings
from lookalike.server_watch import what_is_missing

app = typer.Typer()
Root = Annotated[Path, typer.Option("--root", help="The project's folder.", file_okay=False, exists=True)]
HERE = Path()


@app.command()
def archives(root: Root = HERE) -> None:
    """Pack a TorchServe archive (.mar) for each model whose parts have changed."""
    for archive in _archives(root).values():
        typer.echo(f"{archive} ({archive.stat().st_size / 1e6:.1f} MB)")


@app.command()
def serve(
    root: Root = HERE,
    foreground: Annotated[bool, typer.Option("--foreground", help="Become the server: for containers.")] = False,
) -> None:
    """Start TorchServe with all models and return when it can answer a search."""
    files, settings = ServerFiles.of(root), ServerSettings.load()
    running = running_server(files.state)
    if running is not None:
        typer.echo(f"already running: {_told(running)}")
        if running.is_older_than(files.archives):
            typer.echo("restart to serve the new archives: lookalike stop, lookalike serve")
        return
    given = settings.archives_dir
    models = settings.chosen(_archives(root) if given is None else verified_archives(given.resolve()))
    if foreground:
        become_server(models, files, settings)
    server = start_server(models, files, settings, say=typer.echo)
    typer.echo(_told(server))
    typer.echo(f"metrics: {server.metrics_url}")


@app.command()
def stop(root: Root = HERE) -> None:
    """Stop TorchServe, and the gateway that runs in the background; nothing to do is a success."""
    state = ServerFiles.of(root).state
    if stop_gateway(state):
        typer.echo("gateway stopped")
    typer.echo("stopped" if stop_server(state) else "not running")


@app.command()
def status(root: Root = HERE) -> None:
    """Say whether TorchServe and the gateway run and what is not ready; exit code 1 unless TorchServe is."""
    state = ServerFiles.of(root).state
    server, gateway = running_server(state), running_gateway(state)
    typer.echo(_told(server) if server else "not running")
    if gateway is not None:
        answers = "" if gateway.answers() else "does not answer, "
        typer.echo(f"the page: {gateway.base_url} ({answers}pid {gateway.pid}, log {gateway.log_file})")
    raise typer.Exit(1 if server is None or what_is_missing(server.base_url) else 0)


def _told(server: ServerProcess) -> str:
    missing = what_is_missing(server.base_url)
    state = "not ready, " + "; ".join(f"{name}: {what}" for name, what in missing.items()) if missing else "ready"
    return f"{state}\n{server.base_url}/predictions/search (pid {server.identity.pid}, log {server.log_file})"


def _archives(root: Path) -> dict[str, Path]:
    return build_archives(ArchiveSources.of(root), ServerFiles.of(root).archives)
