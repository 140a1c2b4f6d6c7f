"""``tangram scheduler``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tangram.cli.options import answering_options, cluster_options, lease_options, lease_times, log_options
from tangram.cluster.rest import ONCE

if TYPE_CHECKING:
    from tangram.cli.answering import Ports
    from tangram.settings import LeaseSettings, SchedulerSettings


@click.command()
@cluster_options
@click.option("--scheduler-name", default="tangram", show_default=True, help="Schedule pods with this schedulerName.")
@click.option("--batch", type=click.IntRange(1, 100_000), help="Pods placed per cycle.")
@click.option(
    "--gang-timeout",
    type=click.IntRange(0),
    default=60,
    show_default=True,
    help="Seconds after which a gang bound in part is released; 0: never.",
)
@click.option(
    "--reservation-delay",
    type=click.IntRange(-1),
    default=3600,
    show_default=True,
    help="Seconds after which nodes are reserved for the first pod or gang in line; -1: never.",
)
@lease_options("tangram-scheduler")
@lease_times
@answering_options
@log_options
@click.option("--debug-invariants", is_flag=True, help="Check every snapshot and plan; slow.")
@click.option("--warm-up", is_flag=True, help="Compile the kernels into the cache and exit.")
def scheduler(
    kubeconfig: Path | None,
    context: str | None,
    scheduler_name: str,
    batch: int | None,
    gang_timeout: int,
    reservation_delay: int,
    lease_namespace: str | None,
    lease_name: str,
    no_leader_election: bool,
    lease_times: "LeaseSettings",
    ports: "Ports",
    debug_invariants: bool,
    warm_up: bool,
) -> None:
    """Run the scheduler: watch the cluster and bind pods together with their GPUs."""
    from tangram.cli.processes import calm_collector, own_namespace, run_until_signal
    from tangram.scheduler.warm import warm_kernels
    from tangram.settings import SchedulerSettings

    warm_kernels()
    if warm_up:
        return
    calm_collector()
    settings = SchedulerSettings(
        scheduler_name=scheduler_name,
        gang_timeout=gang_timeout,
        reservation_delay=reservation_delay,
        debug=debug_invariants,
    )
    if batch:
        settings = replace(settings, batch=batch)
    lease = None if no_leader_election else (own_namespace(lease_namespace), lease_name, lease_times)
    run_until_signal(_run(kubeconfig, context, settings, lease, ports))


async def _run(
    kubeconfig: Path | None,
    context: str | None,
    settings: "SchedulerSettings",
    lease_key: tuple[str, str, "LeaseSettings"] | None,
    ports: "Ports",
) -> None:
    from prometheus_client import CollectorRegistry

    from tangram.cli.answering import answering
    from tangram.cli.processes import cut_when_outlived, identity
    from tangram.cluster.events import Recorder
    from tangram.cluster.kubeconfig import load_access
    from tangram.cluster.lease import Candidate, Lease
    from tangram.cluster.permit import ALWAYS
    from tangram.cluster.rest import Client
    from tangram.decide.registry import Registry
    from tangram.metrics.collector import SchedulerCollector
    from tangram.scheduler.cycle import Cycle
    from tangram.scheduler.live import LiveScheduler
    from tangram.scheduler.plugin_watch import PluginWatch
    from tangram.scheduler.published import publishing
    from tangram.settings import BorderSettings

    registry = Registry()
    registry.add_entry_points()
    border = BorderSettings()
    access = load_access(kubeconfig, context, token_refresh=border.token_refresh)
    who = identity()
    async with Client(access, border, user_agent=f"tangram-scheduler ({who})") as client:
        await client.request("GET", "/version", sending=ONCE)  # an unreachable server is one clear line, at once
        public = publishing(settings)
        lease = None
        if lease_key:
            namespace, name, times = lease_key
            lease = Lease(client, Candidate(namespace, name, who, public), times)
            cut_when_outlived(lease, client)
        cycle, silence = Cycle(settings, registry), 3 * border.watch_inactivity
        permit = lease.permit if lease is not None else lambda: ALWAYS
        async with Recorder(client, instance=who, permit=permit) as recorder:
            live = LiveScheduler(client, cycle, recorder, lease)
            figures = CollectorRegistry()
            figures.register(SchedulerCollector(live_state(live, client)))
            watch = PluginWatch(registry)
            watch.start()
            try:
                async with answering(ports, client, lambda: live.unhealthy(silence), live.unready, figures):
                    await live.run()
            finally:
                watch.stop()


def live_state(live: "LiveScheduler", client: "Client") -> "Callable[[], State]":
    """What the metrics are made of, asked for at scrape time."""
    from tangram.metrics.collector import State

    def state() -> State:
        active = live.policy_source.active
        return State(
            figures=live.cycle.figures,
            counters=live.cycle.counters,
            turn_seconds=live.turn_seconds,
            leads=live.leads,
            responses=dict(client.responses),
            relists={
                "nodes": live.nodes.relists,
                "pods": live.pods.relists,
                "finished-members": live.ended.finished.relists,
                "failed-pods": live.ended.failed.relists,
                "jobs": live.work.jobs.relists,
                "policies": live.policies.relists,
                "inventories": live.inventories.relists,
            },
            policy=None if active is None else (active.metadata.name, active.metadata.generation),
            readable=live.policy_source.readable,
        )

    return state


if TYPE_CHECKING:
    from collections.abc import Callable

    from tangram.cluster.rest import Client
    from tangram.metrics.collector import State
    from tangram.scheduler.live import LiveScheduler
