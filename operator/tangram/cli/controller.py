"""``tangram controller``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tangram.api.names import GROUP
from tangram.cli.options import answering_options, cluster_options, lease_options, lease_times, log_options

if TYPE_CHECKING:
    from tangram.cli.answering import Ports
    from tangram.settings import LeaseSettings


@click.command()
@cluster_options
@click.option("--scheduler-name", default="tangram", show_default=True, help="Name of the scheduler of our pods.")
@lease_options("tangram-controller")
@lease_times
@answering_options
@log_options
def controller(
    kubeconfig: Path | None,
    context: str | None,
    scheduler_name: str,
    lease_namespace: str | None,
    lease_name: str,
    no_leader_election: bool,
    lease_times: "LeaseSettings",
    ports: "Ports",
) -> None:
    """Turn TrainingJobs and InferenceServices into pods, and keep the statuses of all kinds true."""
    from tangram.cli.processes import own_namespace, run_until_signal

    lease = None if no_leader_election else (own_namespace(lease_namespace), lease_name, lease_times)
    run_until_signal(_run(kubeconfig, context, scheduler_name, lease, ports))


async def _run(
    kubeconfig: Path | None,
    context: str | None,
    scheduler_name: str,
    lease_key: tuple[str, str, "LeaseSettings"] | None,
    ports: "Ports",
) -> None:
    import asyncio
    import signal

    from tangram.cli.answering import answering
    from tangram.cli.processes import cut_when_outlived, identity
    from tangram.cluster.events import Recorder
    from tangram.cluster.kubeconfig import load_access
    from tangram.cluster.lease import Candidate, Lease
    from tangram.cluster.permit import ALWAYS
    from tangram.cluster.rest import Client
    from tangram.controllers.live import LiveControllers
    from tangram.settings import BorderSettings

    settings, who = BorderSettings(), identity()
    task = asyncio.current_task()
    assert task is not None

    def take_signals_back() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)

    async with Client(
        load_access(kubeconfig, context, token_refresh=settings.token_refresh),
        settings,
        user_agent=f"tangram-controller ({who})",
    ) as client:
        lease = Lease(client, Candidate(lease_key[0], lease_key[1], who), lease_key[2]) if lease_key else None
        if lease is not None:
            cut_when_outlived(lease, client)
        permit = lease.permit if lease is not None else lambda: ALWAYS
        name = f"{GROUP}/tangram-controller"
        async with Recorder(client, controller=name, instance=who, permit=permit) as recorder:
            live = LiveControllers(client, recorder, lease, scheduler_name=scheduler_name, started=take_signals_back)
            live.figures.follow(lambda: live.leads, {kind.kind: queue.__len__ for kind, queue in live.queues.items()})
            silence = 3 * settings.watch_inactivity
            async with answering(ports, client, lambda: live.unhealthy(silence), live.missing, live.figures.registry):
                await live.run()
