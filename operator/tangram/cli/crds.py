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
@click.option(
    "--reference",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the field reference as Markdown into FILE.",
)
def crds(folders: tuple[Path, ...], reference: Path | None) -> None:
    """Print the CustomResourceDefinitions, or write them into folders.

    Printed, they can be piped on: tangram crds | kubectl apply --server-side -f -
    """
    from tangram.api import crd
    from tangram.api import reference as fields

    if reference is not None:
        reference.write_text(fields.reference(), encoding="utf-8")
        click.echo(reference)
    if not folders and reference is None:
        click.echo("---\n".join(crd.files().values()), nl=False)
        return
    for folder in folders:
        for path in crd.write(folder):
            click.echo(path)
