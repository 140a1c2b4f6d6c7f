"""Reading the pages: the commands of their ``console`` blocks, and what is shown below each."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

RUN_PAGES = ("quickstart.md", "upgrading.md", *sorted(path.name for path in DOCS.glob("tutorial-*.md")))
"""Pages that are run from top to bottom on a real API server."""

_BLOCK = re.compile(r"(?:^<!-- not on the sandbox: (?P<why>[^>]+) -->\n)?^```console\n(?P<code>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Step:
    """A command of a page, and the lines that are shown below it."""

    line: int
    command: str
    shown: tuple[str, ...]
    why_not: str
    """Why it cannot be run on the sandbox; empty where it can."""


def steps_of(page: Path) -> Iterator[Step]:
    """The commands of a page from top to bottom."""
    text = page.read_text(encoding="utf-8")
    for block in _BLOCK.finditer(text):
        number = text.count("\n", 0, block.start("code"))
        yield from _steps(block["code"].splitlines(), number + 1, block["why"] or "")


def _steps(lines: list[str], first: int, why_not: str) -> Iterator[Step]:
    begins = [at for at, line in enumerate(lines) if line.startswith(("$ ", "# "))]
    assert begins[:1] == [0], f"line {first}: a console block begins with a command"
    for begin, end in zip(begins, [*begins[1:], len(lines)], strict=True):
        command, *rest = lines[begin:end]
        while command.endswith("\\"):
            command = command[:-1].rstrip() + " " + rest.pop(0).strip()
        yield Step(first + begin, command[2:], tuple(rest), why_not)


def words_of(command: str) -> list[list[str]]:
    """The commands of a line that ``&&``, ``;`` or ``|`` joins, each as a list of words without its comment."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set(";&|"):
            commands.append([])
        else:
            commands[-1].append(word)
    return [one for one in commands if one]


def form_of(line: str) -> str:
    """A line of output without what differs from run to run: ages, addresses, whoever of equals it is, and blanks."""
    line = re.sub(r"\b(\d+(ms|[smhd]))+\b", "AGE", line)
    line = re.sub(r"\b\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4}\b", "TIME", line)
    line = re.sub(r"(?<![\d.])\d+\.\d+\.\d+(?![\d.])", "VERSION", line)
    line = re.sub(r"\b(a100|t4)-\d+\b(, (a100|t4)-\d+\b)*", "NODE", line)
    line = re.sub(r"\b\d+\.\d+\.\d+\.\d+\b", "ADDRESS", line)
    line = re.sub(r"-worker-\d+\b", "-worker-N", line)
    line = re.sub(r'"id": ?"\d+"', '"id":"N"', line)
    line = re.sub(r"\bask for \d+ GPUs\b", "ask for N GPUs", line)
    line = re.sub(r"\bGPU \d+\b(, GPU \d+\b)*", "GPU N", line)
    return " ".join(line.split())


def is_shown(shown: tuple[str, ...], printed: str) -> bool:
    """Whether a command printed what the page shows; a line of three dots stands for any number of lines."""
    wanted = [form_of(line) for line in shown if line.strip()]
    found = [form_of(line) for line in printed.splitlines() if line.strip()]
    pattern = "".join("(?:.*\n)*?" if line == "..." else re.escape(line) + "\n" for line in wanted)
    return re.fullmatch(pattern, "".join(line + "\n" for line in found)) is not None
