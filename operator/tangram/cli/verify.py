"""``tangram node verify``."""

import os
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tangram.node.verify import Verdict

NO_GPU = 3
NOT_KEPT = 4


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def verify(as_json: bool) -> None:
    """Measure on a real GPU whether this container's share is what it promises.

    Run it inside a container that tangram gave a part of a GPU, while nobody else works on that GPU: it reads the
    contract in the container's environment, takes memory until just past the limit, and does some seconds of work:
    with the variables of MPS, without its limits, and without MPS. Exit codes: 0 what is promised is kept, 1 it could
    not be measured, 3 there is no GPU (nothing was verified), 4 a promise is not kept.
    """
    from tangram.errors import NotReachable
    from tangram.node.cuda import Cuda
    from tangram.node.verify import in_a_process
    from tangram.node.verify import verify as measure

    try:
        Cuda()
    except NotReachable as error:
        click.echo(f"SKIPPED, nothing was verified: this needs a real GPU. {error}", err=True)
        sys.exit(NO_GPU)
    verdicts = measure(os.environ, in_a_process)
    _print(verdicts, as_json=as_json)
    if any(verdict.kept is False for verdict in verdicts):
        sys.exit(NOT_KEPT)


def _print(verdicts: "tuple[Verdict, ...]", *, as_json: bool) -> None:
    import msgspec

    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(verdicts)).decode())
        return
    words = {True: "kept", False: "NOT KEPT", None: "-"}
    rows = [("", "promised", "measured", "")]
    rows += [(one.subject, one.promised, one.measured, words[one.kept]) for one in verdicts]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
