"""``lic-da data …``: what images there are, whether they are sound, and how they look."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from lic_da.errors import UserError
from lic_da.io.files import user_path
from lic_da.surroundings import printable

app = typer.Typer(no_args_is_help=True, help="The domains' images: list, check, look at, add.")

_WIDE = 160  # characters in a line, where no terminal says how many there are

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="DOMAINS", help="Names in conf/domain. Default: all.", show_default=False
    ),
]
DataDir = Annotated[Path, typer.Option(help="Folder of the prepared images.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Write a CSV file too; -: to stdout.")]


@app.command("list")
def list_(names: Names = None, data_dir: DataDir = Path("data"), csv: Csv = None) -> None:
    """List domains: counts, sizes, licences, and where their images are from.

    Nothing is fetched: domains that `make data` has not prepared are listed without counts.
    """
    from rich.console import Console

    from lic_da.data.overview import overview, overview_table, write_overview

    rows = overview(_names(names), data_dir)
    if csv is not None:
        write_overview(rows, csv)
    if csv != Path("-"):
        width = None if sys.stdout.isatty() else _WIDE
        Console(highlight=False, width=width).print(overview_table(rows))


@app.command()
def check(names: Names = None, data_dir: DataDir = Path("data"), csv: Csv = None) -> None:
    """Check prepared domains: unreadable files, near-identical images across splits and domains, sizes.

    It ends with exit code 2 if a file cannot be read, or if a test image is near-identical to one that is
    trained on or validated with, in any of these domains. The CSV file lists all pairs.
    """
    from lic_da.data.check import check as checked
    from lic_da.data.check import told, write_pairs
    from lic_da.data.domains import prepared

    found = {name: prepared(name, data_dir) for name in _names(names)}
    missing = [name for name, images in found.items() if images is None]
    if names and missing:
        raise UserError(
            f"Not prepared: {', '.join(missing)}. Run 'make data DOMAINS={missing[0]}'."
        )
    domains = [images for images in found.values() if images is not None]
    if not domains:
        raise UserError(f"No domain is prepared in {data_dir}. Run 'make data'.")
    result = checked(domains)
    if csv is not None:
        write_pairs(result, csv)
    if csv != Path("-"):
        print(printable("\n".join(told(result))))
    if not result.good:
        raise typer.Exit(2)


@app.command()
def sheet(
    name: Annotated[str, typer.Argument(metavar="DOMAIN", help="A name in conf/domain.")],
    data_dir: DataDir = Path("data"),
    split: Annotated[
        str | None, typer.Option(help="train, val or test alone. Default: all three.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="PNG file. Default: in the domain's folder."),
    ] = None,
) -> None:
    """Draw a contact sheet of a domain, which is prepared for it if need be."""
    from rich.console import Console

    from lic_da.data.contact_sheet import write_contact_sheet
    from lic_da.data.domains import prepare
    from lic_da.data.index import SPLITS
    from lic_da.errors import unknown

    if split is not None and split not in SPLITS:
        raise unknown("split", split, SPLITS)
    images = prepare(name, user_path(data_dir), console=Console(stderr=True))
    default = "contact_sheet.png" if split is None else f"contact_sheet_{split}.png"
    target = images.folder / default if output is None else user_path(output)
    write_contact_sheet(images, target, split=split)
    print(printable(target))


@app.command()
def add(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="CSV or Parquet with a column 'domain'.")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace domains that exist.")
    ] = False,
) -> None:
    """Make a domain of each kind that a table names, by a file in conf/domain.

    TABLE has a column 'domain', and either 'path' (relative to the table's folder; a third column
    'split' may say train, val or test) or, in a Parquet file, 'image' with the images themselves.
    """
    from lic_da.data.sources.tables import add_domains

    for name, images, path in add_domains(user_path(table), overwrite=overwrite):
        print(printable(f"{name}: {images} images, {path}"))


@app.command()
def groups(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a run with pile=FOLDER, outputs/NAME.")
    ],
    move: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE=GROUP", help="Move an image, or all of a pattern with *. Repeatable."
        ),
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="Only the names, a line each.")] = False,
    sheets: Annotated[
        bool, typer.Option("--sheets", help="Draw the contact sheets again.")
    ] = False,
) -> None:
    """Show the groups that a run has found in a pile, and move images between them.

    What is moved stays where it was put: `make train GROUPS=RUN` goes on with these groups.
    """
    from lic_da.data import pile

    folder = user_path(run)
    table = pile.read_groups(folder)
    if move:
        table = pile.moved(table, dict(_move(text) for text in move))
    if move or sheets:
        pile.refuse_missing(table, folder)
    if move:
        pile.write_groups(table, folder)
    found = pile.group_images(table, folder)
    if move or sheets:
        pile.write_sheets(found, folder)
    if names:
        print(printable("\n".join(found)))
        return
    by_hand = Counter(member.domain for member in table if member.by_hand)
    for name, images in found.items():
        told = f"; {by_hand[name]} by hand" if by_hand[name] else ""
        print(printable(f"{images.summary()}{told}"))
        print(printable(f"  {folder / pile.SHEETS / f'{name}.png'}"))


def _move(text: str) -> tuple[str, str]:
    """Image and group of ``IMAGE=GROUP``; names of images may have a = in them."""
    image, equals, group = text.rpartition("=")
    if not equals or not image:
        raise UserError(f"--move {text}: write IMAGE=GROUP, such as --move cats/a.png=pile-2.")
    return image, group


def _names(names: list[str] | None) -> list[str]:
    """The domains asked for, or all there are."""
    from lic_da.config import available

    return list(dict.fromkeys(names)) if names else available("domain")
