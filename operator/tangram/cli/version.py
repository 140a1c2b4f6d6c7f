"""``tangram version``: of this command, and of the server and the scheduler where they can be reached."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tangram import __version__
from tangram.cli.options import cluster_options
from tangram.cli.output import Answer, Form, emit, form_option

if TYPE_CHECKING:
    from tangram.cluster.rest import Client


@click.command()
@click.option("--client", "only_client", is_flag=True, help="Ask no cluster.")
@form_option
@cluster_options
def version(only_client: bool, output: Form, kubeconfig: Path | None, context: str | None) -> None:
    """Show the version of this command, and of the API server and the scheduler where they can be reached."""
    from tangram.cli.reading import ask
    from tangram.cli.worlds import warn_of_silence
    from tangram.errors import TangramError

    found: dict[str, Any] = {"clientVersion": __version__}
    if not only_client:
        try:
            found |= ask(kubeconfig, context, lambda client, _: _of_cluster(client))
        except TangramError as error:
            click.echo(f"The version of the server is not known: {error}", err=True)
    warn_of_silence(*found.get("silentSchedulers", ()))
    emit(output, Answer(["tangram"], lambda: found, lambda _: show(found)))


async def _of_cluster(client: "Client") -> dict[str, Any]:
    import msgspec

    from tangram.cli.reading import published_leases
    from tangram.scheduler.published import versions
    from tangram.scheduler.silence import Now, silences

    server = msgspec.json.decode(await client.request("GET", "/version")).get("gitVersion", "")
    leases = await published_leases(client)
    silent = silences(leases, Now(time.time(), client.server_clock.now() or 0))
    found = {"serverVersion": server, "schedulerVersions": versions(lease.metadata for lease in leases)}
    return found | ({"silentSchedulers": silent} if silent else {})


def show(found: dict[str, Any]) -> None:
    """A line for each."""
    click.echo(f"Client Version: {found['clientVersion']}")
    if "serverVersion" in found:
        click.echo(f"Server Version: {found['serverVersion']}")
        for name, version in found["schedulerVersions"].items():
            click.echo(f"Scheduler Version: {version} ({name})")
        if not found["schedulerVersions"]:
            click.echo("Scheduler Version: not known (no scheduler has published it on a Lease that may be read)")
