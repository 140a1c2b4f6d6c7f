"""``tangram plugin``: what helps those who write plugins."""

import sys
from pathlib import Path

import click

_CLEAN, _FOUND, _UNCHECKED = 0, 1, 2


@click.group()
def plugin() -> None:
    """Help with plugins of your own."""


@plugin.command()
@click.argument("name")
@click.option("--policy", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="HybridPolicy whose arguments for the plugin are used.")  # fmt: skip
@click.option("--worlds", type=click.IntRange(1, 1000), default=12, show_default=True, help="Simulated worlds to run.")
@click.option("--seed", type=int, default=0, show_default=True, help="Number that the worlds are made from.")
def check(name: str, policy: Path | None, worlds: int, seed: int) -> None:
    """Run the plugin NAME in simulated worlds and say what it does that a plugin must not do.

    What is remembered of its answers is compared with what it answers anew, so that a plugin which looks at something
    that it does not declare is found out; answers have to be in range and the same each time, whatever the order of
    nodes; and it must not raise, nor write to what it is shown.

    The exit code is 0 when nothing was found, 1 when something was, and 2 when the plugin cannot be checked.
    """
    from tangram.cli.worlds import registry
    from tangram.errors import InvalidInput, TangramError
    from tangram.scheduler.plugin_watch import PluginWatch
    from tangram.simulate.plugin_check import check as run
    from tangram.simulate.policy import read_policy

    try:
        chosen = read_policy(policy).spec.placement.plugins if policy is not None else ()
        if policy is not None and name not in {one.name for one in chosen}:
            known = ", ".join(one.name for one in chosen) or "none"
            raise InvalidInput(str(policy), "spec.placement.plugins", known, f"a list that names {name}")
        args = next((one.args for one in chosen if one.name == name), {})
        known_plugins = registry()
        watch = PluginWatch(known_plugins)
        watch.start()
        try:
            report = run(known_plugins, name, args, worlds, seed)
        finally:
            watch.stop()
    except TangramError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(_UNCHECKED)
    click.echo(f"plugin {name}: {report.worlds} worlds, {report.cycles} cycles")
    for line in report.tally.lines():
        click.echo(f"  {line}")
    for doubt in report.tally.doubts():
        click.echo(f"note: {doubt}")
    for what, where in report.findings.items():
        click.echo(f"found: {what}\n       first: {where}")
    click.echo("nothing found" if not report.findings else f"{len(report.findings)} findings")
    sys.exit(_FOUND if report.findings else _CLEAN)
