"""``tangram snapshot``: a cluster as one file, for questions later, elsewhere, and for reports of faults."""

from pathlib import Path

import click

from tangram.cli.worlds import read_world, world_options


@click.group()
def snapshot() -> None:
    """Save the state that decisions depend on as a file, which `explain`, `what-if` and `snapshot` read with --from."""


@snapshot.command()
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@world_options
def save(target: Path, file: Path | None, kubeconfig: Path | None, context: str | None, scheduler_name: str) -> None:
    """Write nodes, pods, policy, inventories, the scheduler's settings and learned prices to FILE.

    The file is compressed when its name ends in .gz.

    The file holds names, labels, amounts and the scheduler's own annotations. It holds no environment, commands,
    images, volumes, secrets or other annotations.
    """
    from tangram.questions.observe import priced
    from tangram.snapshot import recording

    recorded, _ = read_world(file, kubeconfig, context, scheduler_name)
    recording.save(priced(recorded), target)
    waiting = sum(1 for pod in recorded.pods if not pod.spec.node_name)
    click.echo(
        f"{target}: {len(recorded.nodes)} nodes, {len(recorded.pods)} pods ({waiting} pending), "
        f"policy {recorded.policy['metadata']['name'] if recorded.policy else 'none'}"
    )
