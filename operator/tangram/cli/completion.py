"""``tangram completion``: what a shell runs to complete verbs, options and values."""

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_NO_FILES, _FILES = 4, 0
"""Directives of cobra, whose protocol kubectl speaks: nothing else is proposed, or files are."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that lets a shell complete verbs, options and values.

    \b
    bash: source <(tangram completion bash)
    zsh:  source <(tangram completion zsh)
    fish: tangram completion fish | source

    kubectl completes `kubectl tangram` by itself, by the program kubectl_complete-tangram that is installed beside it.
    """
    from click.shell_completion import get_completion_class

    from tangram.cli.ending import COMPLETE_VARIABLE
    from tangram.cli.main import tangram

    found = get_completion_class(shell)
    assert found is not None
    script = found(tangram, {}, "tangram", COMPLETE_VARIABLE)
    click.echo(script.source_template % script.source_vars())


def for_kubectl() -> None:
    """``kubectl_complete-tangram``: print what may follow the arguments, one a line, and at last what else may."""
    found = proposals(sys.argv[1:])
    for item in found:
        if item.type == "plain":
            click.echo(f"{item.value}\t{item.help}" if item.help else item.value)
    files = any(item.type in ("file", "dir") for item in found)
    click.echo(f":{_FILES if files else _NO_FILES}")


def proposals(arguments: list[str]) -> "list[CompletionItem[str]]":
    """What may stand where the last argument, which is begun or empty, stands."""
    from click.shell_completion import ShellComplete

    from tangram.cli.ending import COMPLETE_VARIABLE
    from tangram.cli.main import tangram

    before, begun = arguments[:-1], (arguments or [""])[-1]
    return ShellComplete(tangram, {}, "tangram", COMPLETE_VARIABLE).get_completions(before, begun)
