"""``lic-da``: pictures to streams and back. torch is imported only by what needs it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lic_da.bitstream import Stream
from lic_da.errors import UserError

if TYPE_CHECKING:
    from lic_da.adaptation.codec import AdaptedCodec

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Code pictures with a learned codec whose decoder is adapted to several domains.",
)

Pack = Annotated[Path, typer.Option(help="Adapter pack, such as outputs/NAME/pack.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Input = Annotated[Path, typer.Argument(metavar="IN", help="A file, or a folder of files.")]
Output = Annotated[Path, typer.Argument(metavar="OUT", help="A file, or a folder if IN is one.")]


@app.command()
def compress(source: Input, target: Output, pack: Pack, overwrite: Overwrite = False) -> None:
    """Code pictures as .lic streams; the strings inside are those of the base codec."""
    from lic_da.adaptation.codec import AdaptedCodec
    from lic_da.data.images import EXTENSIONS, atomic_path, read_rgb

    codec = AdaptedCodec.load(pack)

    def one(path: Path, out: Path) -> str:
        pixels = read_rgb(path)
        data = codec.compress(pixels)
        with atomic_path(out) as temporary:
            temporary.write_bytes(data)
        return f"{8 * len(data) / (pixels.shape[0] * pixels.shape[1]):.3f} bpp"

    _each(source, target, EXTENSIONS, ".lic", overwrite, one)


@app.command()
def decompress(
    source: Input,
    target: Output,
    pack: Pack,
    blend: Annotated[str, typer.Option(help="weighted, top1, oracle or base.")] = "weighted",
    domain: Annotated[str | None, typer.Option(help="The domain, for --blend oracle.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Decode .lic streams to PNG."""
    from lic_da.adaptation.codec import AdaptedCodec
    from lic_da.adaptation.synthesis import check_blend
    from lic_da.data.images import save_png

    codec: AdaptedCodec = AdaptedCodec.load(pack)
    check_blend(blend, domain, codec.domains)

    def one(path: Path, out: Path) -> str:
        pixels = codec.decompress(path.read_bytes(), blend, domain)
        save_png(out, pixels)
        return f"{pixels.shape[1]}×{pixels.shape[0]}"

    _each(source, target, frozenset({".lic"}), ".png", overwrite, one)


@app.command()
def info(file: Annotated[Path, typer.Argument(metavar="FILE", help="A .lic stream.")]) -> None:
    """Print what a stream says of itself."""
    if not file.is_file():
        raise UserError(f"There is no file {file}.")
    stream = Stream.from_bytes(file.read_bytes())
    pixels = stream.width * stream.height
    print(f"size         {stream.width}×{stream.height}")
    print(f"latent       {stream.shape[1]}×{stream.shape[0]}")
    print(f"strings      {stream.string_bytes} bytes, {8 * stream.string_bytes / pixels:.3f} bpp")
    print(f"file         {file.stat().st_size} bytes")
    print(f"base weights {stream.fingerprint.hex()}…")


def _each(
    source: Path,
    target: Path,
    suffixes: frozenset[str],
    new_suffix: str,
    overwrite: bool,
    one: Callable[[Path, Path], str],
) -> None:
    """Do ``one`` for a file, or for every file below a folder; one bad file does not stop the rest."""
    if source.is_dir():
        files = sorted(p for p in source.rglob("*") if p.suffix.lower() in suffixes)
        jobs = [(p, target / p.relative_to(source).with_suffix(new_suffix)) for p in files]
        if not jobs:
            raise UserError(f"There are no files to work on in {source}.")
        clash = {out for _, out in jobs if [o for _, o in jobs].count(out) > 1}
        if clash:
            raise UserError(f"Several files in {source} would become {sorted(clash)[0]}.")
    elif source.is_file():
        jobs = [(source, target / f"{source.stem}{new_suffix}" if target.is_dir() else target)]
    else:
        raise UserError(f"There is no file or folder {source}.")
    failed = 0
    for path, out in jobs:
        try:
            if out.exists() and not overwrite:
                raise UserError(f"{out} exists; --overwrite replaces it.")
            print(f"{path} → {out}  {one(path, out)}")
        except UserError as error:
            failed += 1
            print(f"error: {error}", file=sys.stderr)
    if len(jobs) > 1:
        print(f"{len(jobs) - failed} of {len(jobs)} files done")
    if failed:
        raise typer.Exit(2)


def main() -> None:
    """Entry point; mistakes of the user end in one line."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
