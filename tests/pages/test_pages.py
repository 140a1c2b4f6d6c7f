"""The pages are run as a reader runs them: each command of a tutorial, top to bottom, shows what the page shows."""

import re
from pathlib import Path

import click
import pytest
from tests.pages.conftest import Reader
from tests.pages.reading import DOCS, ROOT, RUN_PAGES, Step, is_shown, steps_of, words_of
from tests.waiting import eventually

from tangram.cli.main import tangram

PAGES = sorted(DOCS.glob("*.md"))
READING = re.compile(r"^(kubectl|tangram)\b.* (get|describe|events|explain|queues|top|what-if)\b")
REFUSALS = ("Error from server", "is invalid", "denied request", "error: ", "Never fits")


def test_three_dots_stand_for_any_lines_and_ages_and_nodes_do_not_matter() -> None:
    shown = ("NAME  AGE", "...", "b     3s")
    assert is_shown(shown, "NAME   AGE\na   1s\nb   2m\n")
    assert is_shown(("pod is on a100-0, t4-0",), "pod is on a100-1\n")
    assert not is_shown(shown, "NAME   AGE\nc   1s\n")


def step_name(step: Step) -> str:
    return f"line {step.line}: {step.command}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", RUN_PAGES)
def test_a_tutorial_shows_what_happens(reader: Reader, page: str) -> None:
    ran = [step for step in steps_of(DOCS / page) if not step.why_not]
    assert len(ran) > 5
    for step in ran:
        follow(reader, step)
    assert reader.clean_up() == "", "a tutorial cleans up behind itself"


def follow(reader: Reader, step: Step) -> None:
    """Run a command until it shows what the page shows: what only reads is asked again, for others take their time."""
    refusal = any(word in line for line in step.shown for word in REFUSALS)
    printed: list[str] = []

    def shows() -> bool:
        done = reader.run(step.command)
        printed[:] = [done.stdout]
        assert refusal or done.returncode == 0 or READING.match(step.command), f"{step_name(step)}\n{done.stdout}"
        return (refusal or done.returncode == 0) and (not step.shown or is_shown(step.shown, done.stdout))

    if READING.match(step.command):
        eventually(shows, step_name(step), step=0.5, why=lambda: "; it shows\n" + "".join(printed))
    else:
        assert shows(), f"{step_name(step)} shows\n{''.join(printed)}"
    if created := re.match(r"kubectl create namespace (\S+)$", step.command):
        account = f"kubectl -n {created[1]} get serviceaccount default"
        eventually(lambda: reader.run(account).returncode == 0, "the namespace can have pods")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_shows_exists(page: Path) -> None:
    """Those that no test can run, too: the verb, the options, and the files that are named."""
    for step in steps_of(page):
        for words in words_of(step.command):
            if words[0] == "tangram" or words[:2] == ["kubectl", "tangram"]:
                parses(words[1:] if words[0] == "tangram" else words[2:], step_name(step))
        for file in re.findall(r"\b(?:examples|charts|crds)/[\w./-]+", step.command):
            assert (ROOT / file).exists(), step_name(step)


def parses(words: list[str], where: str) -> None:
    """A command line of ours is understood as far as it goes, without being run."""
    command: click.Command = tangram
    context = click.Context(tangram, info_name="tangram")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, where
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"-h", "--help", "--version"}
    for word in words:
        if word.startswith("-") and len(word) > 1:
            assert word.partition("=")[0] in known, f"{where}: no option {word}"
