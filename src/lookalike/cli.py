"""The command `lookalike`: its groups of commands, and errors told in one line."""

import logging
import sys

import typer

from lookalike.bulk.commands import embed
from lookalike.bulk.commands import index as bulk_commands
from lookalike.capacity import capacity
from lookalike.client.commands import search
from lookalike.delivery.commands import index as delivery_commands
from lookalike.delivery.commands import models as model_commands
from lookalike.demo import demo
from lookalike.errors import LookalikeError
from lookalike.evaluation_commands import evaluate
from lookalike.gateway.commands import app as gateway_commands
from lookalike.gateway.commands import keys_app as key_commands
from lookalike.growth import growth
from lookalike.index.commands import app as index_commands
from lookalike.index.milvus.commands import app as milvus_commands
from lookalike.index.milvus.commands import index as migrate_commands
from lookalike.labels.commands import app as label_commands
from lookalike.preflight import preflight
from lookalike.review.commands import review
from lookalike.server_commands import app as server_commands

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Reverse image search as a service.")
index_commands.add_typer(delivery_commands)
index_commands.add_typer(migrate_commands)
index_commands.add_typer(bulk_commands)
app.add_typer(index_commands, name="index")
app.add_typer(milvus_commands, name="milvus")
app.add_typer(model_commands, name="models")
app.add_typer(label_commands, name="labels")
app.add_typer(key_commands, name="keys")
app.add_typer(server_commands)
app.add_typer(gateway_commands)
app.command()(capacity)
app.command()(demo)
app.command()(embed)
app.command()(growth)
app.command()(search)
app.command()(evaluate)
app.command()(preflight)
app.command()(review)


def main() -> None:
    """Run the command line: exit code 0 when all is well, 1 for an error that is told, 2 for wrong usage."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for talkative in ("httpx", "botocore"):  # a line for each request or each client is nothing for a terminal
        logging.getLogger(talkative).setLevel(logging.WARNING)
    try:
        app()
    except LookalikeError as error:
        allowed = error.as_dict().get("allowed")
        named = ", ".join(map(str, allowed)) if isinstance(allowed, list) else allowed
        typer.echo(f"error: {error.message}" + (f" (allowed: {named})" if named else ""), err=True)
        sys.exit(1)
    except OSError as error:
        # A folder that may not be written, a file that is not there: the system's own words say it.
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
