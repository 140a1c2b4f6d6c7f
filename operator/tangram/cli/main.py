"""The one executable: verbs are found by name and imported only when they are called, so ``--help`` stays quick."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from tangram import __version__

ASK, RUN, LAB = "Ask and act", "Run in the cluster", "Lab"
PARTS = (ASK, RUN, LAB)
"""Headings of ``--help``, in this order."""


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb is, and its line in ``--help``, which stands here so that ``--help`` imports nothing."""

    part: str
    module: str
    attribute: str
    help: str


VERBS: dict[str, Verb] = {
    "explain": Verb(ASK, "explain", "explain", "Explain why something is pending and what would let it start."),
    "what-if": Verb(ASK, "what_if", "what_if", "Say whether objects would fit before they are submitted."),
    "queues": Verb(ASK, "queues", "queues", "Show the queue tree and how much each queue uses of what it may."),
    "top": Verb(ASK, "top", "top", "Show who holds the GPUs, and how busy they are."),
    "suspend": Verb(ASK, "suspend", "suspend", "Stop TrainingJobs and release their GPUs."),
    "resume": Verb(ASK, "suspend", "resume", "Start suspended TrainingJobs again."),
    "snapshot": Verb(ASK, "snapshot", "snapshot", "Keep what decisions depend on as one file."),
    "version": Verb(ASK, "version", "version", "Show the version of this command, the server and the scheduler."),
    "completion": Verb(ASK, "completion", "completion", "Print the script by which a shell completes commands."),
    "controller": Verb(RUN, "controller", "controller", "Run the controllers of the custom resources."),
    "crds": Verb(RUN, "crds", "crds", "Print or write the CustomResourceDefinitions."),
    "mps": Verb(RUN, "mps", "mps", "Run the MPS daemons of a GPU node."),
    "node": Verb(RUN, "node", "node", "Run the agent of a GPU node."),
    "scheduler": Verb(RUN, "scheduler", "scheduler", "Run the scheduler."),
    "demo": Verb(LAB, "demo", "demo", "Show the main job on a local cluster, from nothing to a table."),
    "plugin": Verb(LAB, "plugin", "plugin", "Help with plugins of your own."),
    "quality": Verb(LAB, "quality", "quality", "Compare how far placement policies fill a production pool."),
    "replay": Verb(LAB, "replay", "replay", "Compare how long the jobs of a trace wait and take."),
    "sandbox": Verb(LAB, "sandbox", "sandbox", "Run a real local Kubernetes with fake GPU nodes; no Docker."),
    "simulate": Verb(LAB, "simulate", "simulate", "Replay a trace through the production scheduler."),
}
"""In the order in which the parts of ``--help`` show them."""


class Lazy(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs."""
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        command = getattr(importlib.import_module(f"tangram.cli.{verb.module}"), verb.attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb that is called; one that does not exist is answered with those that are spelled like it."""
        from tangram.questions.suggest import did_you_mean

        if args[0] not in VERBS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f'unknown command "{args[0]}"{did_you_mean(args[0], VERBS)}')
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs by what they are for, from the table instead of from the commands."""
        widest = max(map(len, VERBS))
        for part in PARTS:
            with formatter.section(part):
                lines = [(name.ljust(widest), verb.help) for name, verb in VERBS.items() if verb.part == part]
                formatter.write_dl(lines)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs and options, from the table instead of from the commands."""
        verbs = [CompletionItem(name, help=verb.help) for name, verb in VERBS.items() if name.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tangram")
def tangram() -> None:
    """Whole and fractional GPUs for training and inference on one shared Kubernetes pool."""


def main() -> None:
    """Run the command line, also as kubectl's plugin; an error is one line and exit status 1, wrong usage 2."""
    from tangram.cli.ending import run

    sys.exit(run(tangram, program_name(sys.argv[0])))


def program_name(path: str) -> str:
    """The command as users type it: kubectl runs ``kubectl-tangram`` as its plugin."""
    return "kubectl tangram" if Path(path).name.startswith("kubectl-tangram") else "tangram"
