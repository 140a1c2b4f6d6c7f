"""Write ``hashes.txt`` and ``build-hashes.txt``: every file of every version that an image is built from, by its hash.

What is asked for stands in pyproject.toml, in which version in constraints.txt; uv asks the package index. Neither file
names an index: whoever installs from it may use one of their own, and gets the same files.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = "# {what}; regenerate with `make hashes`.\n"


def main() -> None:
    """Write both files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    write("hashes.txt", "What a process needs", project["project"]["dependencies"])
    write("build-hashes.txt", "What building the wheel needs", project["build-system"]["requires"])


def write(name: str, what: str, wanted: list[str]) -> None:
    """Write one file; raises CalledProcessError when the versions cannot be had."""
    command = [
        str(Path(sys.executable).with_name("uv")), "pip", "compile", "-", "--quiet", "--universal",
        "--python-version", "3.11", "--constraint", "constraints.txt", "--generate-hashes",
        "--no-emit-index-url", "--no-emit-find-links", "--no-header", "--no-annotate",
    ]  # fmt: skip
    text = "\n".join(wanted)
    done = subprocess.run(command, cwd=ROOT, input=text, stdout=subprocess.PIPE, text=True, check=True)
    (ROOT / name).write_text(HEAD.format(what=what) + done.stdout)


if __name__ == "__main__":
    main()
