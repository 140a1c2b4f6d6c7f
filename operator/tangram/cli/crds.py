"""``tangram crds``: the definitions of the kinds, generated from the models."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click

from tangram.errors import NotReachable


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
@click.option(
    "--without-effect",
    is_flag=True,
    help="Print the fields that nothing acts on yet instead, one a line with the reason.",
)
def crds(folders: tuple[Path, ...], reference: Path | None, without_effect: bool) -> None:
    """Print the CustomResourceDefinitions, or write them into folders.

    Printed, they can be piped on: tangram crds | kubectl apply --server-side -f -
    """
    from tangram.api import crd
    from tangram.api import reference as fields

    if without_effect:
        for line in crd.without_effect():
            click.echo(line)
        return
    if reference is not None:
        with _writing(reference):
            reference.write_text(fields.reference(), encoding="utf-8")
        click.echo(reference)
    if not folders and reference is None:
        click.echo("---\n".join(crd.files().values()), nl=False)
        return
    for folder in folders:
        with _writing(folder):
            paths = crd.write(folder)
        for path in paths:
            click.echo(path)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raises NotReachable where a file or folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise NotReachable(f"{path}: cannot be written: {error.strerror or error}") from None
