"""The one executable: verbs are found by name and imported only when they are called, so ``--help`` stays quick."""

import importlib
import sys

import click

from tangram import __version__
from tangram.errors import TangramError

# verb -> (module, attribute, help line); the help line stands here so that ``--help`` imports nothing.
VERBS: dict[str, tuple[str, str, str]] = {
    "controller": ("tangram.cli.controller", "controller", "Run the controllers of the custom resources."),
    "crds": ("tangram.cli.crds", "crds", "Print or write the CustomResourceDefinitions."),
    "demo": ("tangram.cli.demo", "demo", "Show the main job on a local cluster, from nothing to a table."),
    "explain": ("tangram.cli.explain", "explain", "Explain why something is pending and what would let it start."),
    "node": ("tangram.cli.node", "node", "Run the agent of a GPU node."),
    "plugin": ("tangram.cli.plugin", "plugin", "Help with plugins of your own."),
    "quality": ("tangram.cli.quality", "quality", "Compare how far placement policies fill a production pool."),
    "replay": ("tangram.cli.replay", "replay", "Compare how long the jobs of a trace wait and take."),
    "sandbox": ("tangram.cli.sandbox", "sandbox", "Run a real local Kubernetes with fake GPU nodes; no Docker."),
    "scheduler": ("tangram.cli.scheduler", "scheduler", "Run the scheduler."),
    "simulate": ("tangram.cli.simulate", "simulate", "Replay a trace through the production scheduler."),
    "snapshot": ("tangram.cli.snapshot", "snapshot", "Keep what decisions depend on as one file."),
    "what-if": ("tangram.cli.what_if", "what_if", "Say whether objects would fit before they are submitted."),
}


class Lazy(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs."""
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        entry = VERBS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(importlib.import_module(entry[0]), entry[1])
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs, from the table instead of from the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, VERBS[name][2]) for name in sorted(VERBS)])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tangram")
def tangram() -> None:
    """Whole and fractional GPUs for training and inference on one shared Kubernetes pool."""


def main() -> None:
    """Run the command line; an error that was raised on purpose is one line and exit code 1."""
    try:
        tangram()
    except TangramError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
