"""Options that several verbs have, each spelled once."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


def cluster_options(command: Command) -> Command:
    """Which cluster to talk to."""
    return _with(
        command,
        click.option(
            "--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="[default: $KUBECONFIG, in-cluster]"
        ),
        click.option("--context", help="Context of the kubeconfig."),
    )


def lease_options(name: str) -> Callable[[Command], Command]:
    """Which of several processes does the work; ``name`` is the default name of their Lease."""
    return lambda command: _with(
        command,
        click.option("--lease-namespace", help="Namespace of the Lease. [default: the pod's own]"),
        click.option("--lease-name", default=name, show_default=True, help="Name of the Lease."),
        click.option("--no-leader-election", is_flag=True, help="Write without holding a Lease: for one process only."),
    )


def lease_times(command: Command) -> Command:
    """How long a silent holder of the Lease is waited for, as ``lease_times``, which is ``LeaseSettings``."""
    from tangram.settings import LeaseSettings

    default, seconds = LeaseSettings(), click.FloatRange(0, min_open=True)

    @functools.wraps(command)
    def gathered(lease_duration: float, lease_renew_deadline: float, lease_retry_period: float, **others: Any) -> Any:
        times = LeaseSettings(lease_duration, lease_renew_deadline, lease_retry_period)
        return command(lease_times=times, **others)

    return _with(
        gathered,
        click.option(
            "--lease-duration",
            type=click.IntRange(1),
            default=int(default.duration),
            show_default=True,
            help="Seconds without a renewal after which another process takes the Lease.",
        ),
        click.option(
            "--lease-renew-deadline",
            type=seconds,
            default=default.renew_deadline,
            show_default=True,
            help="Seconds without a renewal after which its holder stops writing; less than the duration.",
        ),
        click.option(
            "--lease-retry-period",
            type=seconds,
            default=default.retry_period,
            show_default=True,
            help="Seconds between renewals; less than the deadline.",
        ),
    )


def port_options(command: Command) -> Command:
    """Where a process answers."""
    port = click.IntRange(0, 65535)
    every = "0.0.0.0"  # noqa: S104 - probes come from the kubelet
    return _with(
        command,
        click.option("--host", default=every, show_default=True, help="Address of the ports below."),
        click.option("--health-port", type=port, default=8080, show_default=True, help="0: none."),
        click.option("--metrics-port", type=port, default=8081, show_default=True, help="0: none."),
    )


def answering_options(command: Command) -> Command:
    """Where a process answers and to whom, as ``ports``, which is ``answering.Ports``."""

    @functools.wraps(command)
    def gathered(metrics_access: str, metrics_certificate: Path | None, **others: Any) -> Any:
        from tangram.cli.answering import Ports

        host, health, metrics = (others.pop(name) for name in ("host", "health_port", "metrics_port"))
        ports = Ports(host, health, metrics, metrics_access == "token", metrics_certificate)
        return command(ports=ports, **others)

    who = "Who may read /metrics: over TLS whom the API server lets `get` that path, or everybody in plain text."
    folder = "Folder with tls.crt and tls.key for /metrics. [default: one made at the start, that nobody can check]"
    path, kinds = click.Path(path_type=Path, file_okay=False), click.Choice(["token", "open"])
    return port_options(
        _with(
            gathered,
            click.option("--metrics-access", type=kinds, default="token", show_default=True, help=who),
            click.option("--metrics-certificate", type=path, help=folder),
        )
    )


def log_options(command: Command) -> Command:
    """How a process logs, which is set up before it begins."""

    @functools.wraps(command)
    def logging(log_format: str, log_level: str, **others: Any) -> Any:
        from tangram.cli.processes import set_up_logging

        if click.get_current_context().invoked_subcommand is None:  # a verb below it prints, and logs nothing
            set_up_logging(log_format, log_level)
        return command(**others)

    forms, levels = click.Choice(["text", "json"]), click.Choice(["debug", "info", "warning", "error"])
    return _with(
        logging,
        click.option("--log-format", type=forms, default="text", show_default=True, help="Form of log lines."),
        click.option(
            "--log-level", type=levels, default="info", show_default=True, help="Least severity of log lines."
        ),
    )


def output_option(command: Command) -> Command:
    """How a verb answers."""
    kinds = click.Choice(["table", "json"])
    return _with(
        command,
        click.option("-o", "--output", type=kinds, default="table", show_default=True, help="Form of the answer."),
    )


def _with(command: Command, *options: Callable[[Command], Command]) -> Command:
    """The command with these options, which its help shows in this order."""
    for option in reversed(options):
        command = option(command)
    return command
