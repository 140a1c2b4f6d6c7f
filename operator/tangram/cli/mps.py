"""``tangram mps``: the process of a GPU node that runs the MPS control daemons."""

import os
import sys
from pathlib import Path

import click

_UNITS = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


class Size(click.ParamType[int]):
    """Bytes, as Kubernetes writes an amount of memory."""

    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Raises click's BadParameter for what is no size."""
        text = str(value)
        number, unit = text.rstrip("KMGi"), text[len(text.rstrip("KMGi")) :]
        if not number.isdecimal() or unit not in _UNITS or len(number) > 12:
            self.fail(f"{text!r} is not a size such as 64Mi or 1Gi", param, ctx)
        return int(number) * _UNITS[unit]


@click.command()
@click.option(
    "--mps-root",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/run/tangram/mps"),
    show_default=True,
    help="Folder of the MPS daemons, as the agent has it.",
)
@click.option(
    "--shared-memory",
    type=Size(),
    default="1Gi",
    show_default=True,
    help="Size of the shared memory (/dev/shm) of the containers that share one GPU; 0: no limit.",
)
@click.option(
    "--multi-user/--no-multi-user",
    default=True,
    show_default=True,
    help="Let containers of several users use one GPU at once, where the driver can.",
)
def mps(mps_root: Path, shared_memory: int, multi_user: bool) -> None:
    """Run the MPS control daemons that this node's agent wants.

    They go on when the agent ends. This process becomes one of 10 MiB, and the end of it ends the CUDA work of all
    containers that share GPUs here.
    """
    from tangram.node.mps import supervisor

    words = [str(mps_root), supervisor.PROGRAM, str(shared_memory), str(multi_user).lower(), "0.5"]
    os.execv(sys.executable, [sys.executable, "-I", "-S", supervisor.__file__, *words])  # noqa: S606 - it becomes that
