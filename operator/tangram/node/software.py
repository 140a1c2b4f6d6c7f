"""Which container software a node runs: its runtime as the kubelet reports it, NVIDIA's toolkit by its files.

The toolkit has no file that says its version, but the name of its library ends with it:
``libnvidia-container.so.1.17.8``.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tangram.node.holes import holes_of, version_of

TOOLKIT = "nvidia-container-toolkit"
HOST_USR = Path("/host/usr")
"""Where the chart shows the host's ``/usr``."""
_FOLDERS = (
    "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "lib64", "lib", "local/lib", "local/nvidia/toolkit",
)  # fmt: skip
"""Below ``/usr``: packages of distributions, and the folder of NVIDIA's operator."""
_LIBRARY = re.compile(r"libnvidia-container\.so\.(\d+\.\d+\.\d+)")
_MOST_FILES = 20_000
"""Names that are read of one folder."""
_LONGEST = 64


@dataclass(frozen=True, slots=True)
class Software:
    """What is known; empty: it is not."""

    runtime: str = ""
    """As the kubelet reports it: ``containerd://2.2.5``."""
    toolkit: str = ""
    """Version of NVIDIA's container toolkit; the lowest that is found, for any may be the one in use."""

    @property
    def holes(self) -> tuple[str, ...]:
        """A sentence for each hole that these versions have by their numbers."""
        name, _, version = self.runtime.partition("://")
        return (*holes_of(TOOLKIT, self.toolkit), *holes_of(name, version))


def software(runtime: str, usr: Path = HOST_USR) -> Software:
    """What a node runs; ``runtime`` is ``status.nodeInfo.containerRuntimeVersion``. Reads folders."""
    return Software(runtime[:_LONGEST], toolkit_version(usr))


def toolkit_version(usr: Path) -> str:
    """Version of the toolkit's library below a host's ``/usr``; empty: none is found, or nothing may be read."""
    found = {version for folder in _FOLDERS for name in _names(usr / folder) for version in _LIBRARY.findall(name)}
    return min(found, key=lambda version: version_of(version) or (), default="")


def _names(folder: Path) -> Iterator[str]:
    try:
        entries: Iterable[Path] = folder.iterdir()
        for number, entry in enumerate(entries):
            if number >= _MOST_FILES:
                return
            yield entry.name
    except OSError:
        return
