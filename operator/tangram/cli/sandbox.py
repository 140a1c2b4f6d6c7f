"""``tangram sandbox``: a real Kubernetes control plane with fake GPU nodes on this machine, without Docker."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from tangram.errors import TangramError

if TYPE_CHECKING:
    from tangram.sandbox.cluster import Sandbox

_WATCH_SECONDS = 0.5
_NAME = click.option("--name", default="default", show_default=True, help="Which sandbox.")
_STATE = click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of all sandboxes. [default: $XDG_STATE_HOME/tangram/sandbox]",
)


@click.group()
def sandbox() -> None:
    """Run a real local Kubernetes with fake GPU nodes; no Docker needed."""


@sandbox.command()
@click.option("--with", "programs", multiple=True, metavar="PROGRAM", help="Also kube-scheduler or kubelet.")
def build(programs: tuple[str, ...]) -> None:
    """Build the cluster's programs from Go modules into the user's cache, where missing."""
    from tangram.sandbox import binaries, recipes

    with _termination_as_exit():
        paths = binaries.build((*recipes.DEFAULT_PROGRAMS, *recipes.check_optional(programs)), report=_progress())
    for name, path in paths.items():
        click.echo(f"{name}\t{path}")


@sandbox.command()
@_NAME
@_STATE
@click.option("--nodes", default="", metavar="LIST", help="Fake nodes, such as 8x8xA100,4x4xT4,2xCPU.")
@click.option(
    "--provider",
    default="local",
    show_default=True,
    metavar="local|kind",
    help="Own processes, or kind on a container engine.",
)
@click.option("--real-node", is_flag=True, help="Also a node that runs real containers (Linux, as root).")
@click.option("--with", "programs", multiple=True, metavar="PROGRAM", help="Also run kube-scheduler.")
@click.option("--port", type=int, help="Port of the API server. [default: any free one]")
@click.option("--no-fsync", is_flag=True, help="Quicker, and lost in a power cut: for tests.")
@click.option("--audit", is_flag=True, help="Record all requests to the API server in logs/audit.log.")
@click.option("--foreground", is_flag=True, help="Stay, and stop the sandbox on Ctrl-C or SIGTERM.")
def up(
    name: str,
    state_dir: Path | None,
    nodes: str,
    provider: str,
    real_node: bool,
    programs: tuple[str, ...],
    port: int | None,
    no_fsync: bool,
    audit: bool,
    foreground: bool,
) -> None:
    """Start a sandbox and print how to use it."""
    from tangram.sandbox import cluster
    from tangram.sandbox.nodes import parse_nodes

    with _termination_as_exit():
        started = cluster.up(
            name,
            cluster.Wish(
                nodes=parse_nodes(nodes),
                provider=provider,
                real_node=real_node,
                programs=programs,
                port=port,
                fsync=not no_fsync,
                audit=audit,
                tied_to_parent=foreground,
            ),
            state_root=state_dir,
            report=_progress(),
        )
        click.echo(f"export KUBECONFIG={started.kubeconfig}")
        if foreground:
            _stay(started, state_dir)


def _stay(started: "Sandbox", state_dir: Path | None) -> None:
    from tangram.sandbox import cluster

    click.echo("Ctrl-C stops the sandbox", err=True)
    try:
        while started.running:
            time.sleep(_WATCH_SECONDS)
        raise TangramError(cluster.dead_servers(started) or f"sandbox {started.name} has stopped")
    finally:
        with cluster.undisturbed():
            cluster.down(started.name, state_root=state_dir, report=_progress())


@sandbox.command()
@_NAME
@_STATE
@click.option("--all", "everything", is_flag=True, help="Every sandbox of the state folder.")
def down(name: str, state_dir: Path | None, everything: bool) -> None:
    """Stop a sandbox and remove all of it."""
    from tangram.sandbox import cluster

    names = [found.name for found in cluster.find_all(state_root=state_dir)] if everything else [name]
    for one in names:
        if not cluster.down(one, state_root=state_dir, report=_progress()):
            click.echo(f"there is no sandbox {one}", err=True)


@sandbox.command()
@click.option("--name", help="Only this sandbox; exit status 1 when it does not run.")
@_STATE
def status(name: str | None, state_dir: Path | None) -> None:
    """Show the sandboxes, what they run and where."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from tangram.sandbox import cluster

    if name is None:
        found = cluster.find_all(state_root=state_dir)
    else:
        one = cluster.find(name, state_root=state_dir)
        if one is None:
            raise TangramError(f"there is no sandbox {name}")
        found = [one]
    if not found:
        click.echo("no sandbox; start one with: tangram sandbox up", err=True)
        return
    table = Table("NAME", "STATE", "PROVIDER", "SERVER", "NODES", "VERSIONS", "SERVERS (pid)", box=box.SIMPLE)
    for each in found:
        table.add_row(*_row(each))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    for each in found:
        click.echo(f"{each.name}: export KUBECONFIG={each.kubeconfig}")
    if name is not None and not found[0].running:
        raise TangramError(f"sandbox {name} is not running: {cluster.dead_servers(found[0])}".rstrip(": "))


@sandbox.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--state",
    "state_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the library reads them. [default: FILE with the ending .state]",
)
@click.option("--watch", is_flag=True, help="Stay, and show every change of FILE until Ctrl-C.")
def gpus(file: Path, state_file: Path | None, watch: bool) -> None:
    """Pretend the GPUs of a YAML file to programs that use NVML, such as the node agent."""
    import shlex

    from tangram.sandbox.nvml import build, state

    state_file = (state_file or file.with_suffix(".state")).absolute()
    with _termination_as_exit():
        state.write(state.read(file), state_file)
        for name, value in build.environment(state_file).items():
            click.echo(f"export {name}={shlex.quote(value)}")
        if watch:
            _apply_changes(file, state_file)


def _apply_changes(file: Path, state_file: Path) -> None:
    """Keep the facts in step with the file; what cannot be read is said, and the last good state stays."""
    from tangram.sandbox.nvml import state

    click.echo(f"following {file}; Ctrl-C ends it", err=True)
    seen = file.stat().st_mtime_ns
    while True:
        time.sleep(_WATCH_SECONDS)
        with contextlib.suppress(FileNotFoundError):  # editors replace files
            changed = file.stat().st_mtime_ns
            if changed != seen:
                seen = changed
                try:
                    state.write(state.read(file), state_file)
                    click.echo(f"{file} is applied", err=True)
                except TangramError as error:
                    click.echo(f"error: {error}", err=True)


def _row(each: "Sandbox") -> tuple[str, ...]:
    from tangram.sandbox import cluster

    state = each.state
    servers = [f"{process.name} ({process.pid}{'' if process.alive else ', dead'})" for process in state.processes]
    versions = [f"{name} {version}" for name, version in state.versions.items()]
    return (
        each.name,
        "running" if each.running else "stopped",
        state.provider,
        each.server or "-",
        cluster.node_count_text(each),
        "\n".join(versions),
        "\n".join(servers) or "-",
    )


def _progress() -> Callable[[str], None]:
    """A line per step on stderr, with the seconds since the command began."""
    begun = time.monotonic()
    return lambda line: click.echo(f"[{time.monotonic() - begun:6.1f} s] {line}", err=True)


@contextlib.contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the program as Ctrl-C does, so that what was started is stopped."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
