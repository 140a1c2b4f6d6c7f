"""``tangram crds``: the definitions of the kinds, generated from the models."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--write",
    "folders",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write one file per kind into DIR instead of printing; may be given several times.",
)
def crds(folders: tuple[Path, ...]) -> None:
    """Print the CustomResourceDefinitions, or write them into folders.

    Printed, they can be piped on: tangram crds | kubectl apply --server-side -f -
    """
    from tangram.api import crd

    if not folders:
        click.echo("---\n".join(crd.files().values()), nl=False)
        return
    for folder in folders:
        for path in crd.write(folder):
            click.echo(path)
