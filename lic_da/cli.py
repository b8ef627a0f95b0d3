"""``lic-da``: images to streams and back. torch is imported only by what needs it."""

from __future__ import annotations

import json
import mimetypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lic_da.data.commands import app as data_app
from lic_da.errors import UserError, unknown
from lic_da.io.bitstream import Stream
from lic_da.io.files import given_path
from lic_da.surroundings import (
    ensure_home,
    granted_cpus,
    printable,
    use_plain_output,
)

if TYPE_CHECKING:
    from lic_da.files.coder import Coder
    from lic_da.files.runtime_coder import RuntimeCoder
    from lic_da.travel.manifest import Manifest

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Code images with a learned codec whose decoder is adapted to several domains.",
)

results = typer.Typer(no_args_is_help=True, help="Results of runs and sweeps for other tools.")
app.add_typer(results, name="results")
app.add_typer(data_app, name="data")

FORMATS = ("png", "webp")
RUNTIMES = ("torch", "onnx")
_LIC = ".lic"

Input = Annotated[
    Path,
    typer.Argument(metavar="IN", help="A file, or a folder of files.", parser=given_path),
]
Output = Annotated[
    str,
    typer.Argument(metavar="OUT", help="A file, a folder (FOLDER/ makes one), or - for stdout."),
]
Pack = Annotated[
    Path | None,
    typer.Option(
        metavar="<path>",
        parser=given_path,
        help="Pack of a run, such as outputs/NAME/pack. Default: the last run's.",
    ),
]
Codec = Annotated[str | None, typer.Option(help="A base codec alone, instead of a pack.")]
Quality = Annotated[
    int | None,
    typer.Option(help="Quality of the codec alone; when compressing, of a pack for several."),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(
        help="A package whose classes the pack may name; it is imported and can do anything. Repeatable."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
Runtime = Annotated[
    str,
    typer.Option(
        help="torch, or onnx: without torch, by --pack DIR, a folder that lic-da export wrote."
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="Images at a time.")]

V = Annotated[
    str,
    typer.Option(
        help="gate: the decoder finds the weights of the adapters. best: search those that decode "
        "each image best, which is slow, and write them where it pays."
    ),
]
Spatial = Annotated[
    str | None,
    typer.Option(
        help="window: each region of an image has adapters' weights of its own, for pages that mix "
        "kinds of images; image: all of it has the same. Default: as the pack says."
    ),
]
Effort = Annotated[
    int,
    typer.Option(
        min=0,
        max=3,
        help="How long to search for better latents of each image; 0: not at all. The pack's "
        "decoder gains by it, and others mostly do.",
    ),
]


Seed = Annotated[int, typer.Option(min=0, max=(1 << 32) - 1, help="Of the search of --effort.")]


@app.command()
def compress(
    source: Input,
    target: Output,
    pack: Pack = None,
    codec: Codec = None,
    quality: Quality = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            "--blend",
            help="base: write the base codec's stream, with a pack of any method.",
        ),
    ] = None,
    v: V = "gate",
    effort: Effort = 0,
    seed: Seed = 0,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
    trust: Trust = None,
    runtime: Runtime = "torch",
) -> None:
    """Code images as .lic streams.

    The strings inside are those of the base codec, unless the pack is of a method that trains the
    encoder or the entropy model too (finetune, scratch, cawf): then they are the pack's own.
    EXIF orientation is applied, embedded colour profiles are converted to sRGB, alpha is composed on
    white. A stream holds 8-bit RGB and no metadata.
    """
    from lic_da.files.batch import plan, run
    from lic_da.files.coder import Coder
    from lic_da.io.listing import image

    _check_encoding(v, mode, codec)
    todo = plan(source, target, image, ".lic")
    for job in todo:
        if _is_picture(job.target.name):
            raise UserError(
                f"{job.target} should end in .lic: a stream is written, and no picture."
            )
    trusted = _trusted(trust)
    coder: Coder | RuntimeCoder
    if _is_onnx(runtime):
        if v != "gate" or effort:
            raise UserError("--v best and --effort search with torch: leave out --runtime onnx.")
        coder = _runtime_coder(pack, codec, quality, min(jobs, len(todo)), mode)
    else:
        coder = Coder(
            *(_pack(pack, codec), codec, quality, mode),
            trust=trusted,
            v=v,
            effort=effort,
            seed=seed,
            steps_shown=len(todo) == 1,
        )
    coder.check()
    _leave(run(coder.compress, todo, "Compressed", overwrite=overwrite, workers=jobs, images=True))


@app.command()
def decompress(
    source: Input,
    target: Output,
    pack: Pack = None,
    codec: Codec = None,
    quality: Quality = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            "--blend",
            help="weighted (default), top1, oracle or base; adapted (default) or base for other methods.",
        ),
    ] = None,
    domain: Annotated[str | None, typer.Option(help="The domain, for --mode oracle.")] = None,
    spatial: Spatial = None,
    format: Annotated[
        str | None, typer.Option(help="png or webp, both lossless. Default: OUT's suffix, or png.")
    ] = None,
    jobs: Jobs = 1,
    overwrite: Overwrite = False,
    trust: Trust = None,
    runtime: Runtime = "torch",
) -> None:
    """Decode .lic streams.

    --mode base gives what the base codec decodes; it needs no pack, and neither does --codec.
    """
    from lic_da.files.batch import plan, run
    from lic_da.files.coder import Coder
    from lic_da.io.listing import ends_in

    kind = _format(format, source, target)
    todo = plan(source, target, ends_in(_LIC), f".{kind}")
    if _is_onnx(runtime):
        if spatial is not None:
            raise UserError("--spatial decodes with torch: leave out --runtime onnx.")
        fast = _runtime_coder(pack, codec, quality, min(jobs, len(todo)), mode, domain, kind)
        fast.check()
        _leave(run(fast.decompress, todo, "Decompressed", overwrite=overwrite, workers=jobs))
        return
    alone = _is_alone(pack, codec, mode)
    if alone and spatial is not None:
        raise UserError("A codec alone has no gate: --spatial goes with a pack.")
    folder = None if alone else _decoding_pack(pack, codec, quality)
    coder = Coder(
        *(folder, codec, quality, "base" if alone else mode),
        domain=domain,
        format=kind,
        trust=_trusted(trust),
        spatial=spatial,
    )
    coder.check()
    _leave(run(coder.decompress, todo, "Decompressed", overwrite=overwrite, workers=jobs))


Source = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help="A folder, tar shards, Parquet files (a file, a folder, 'FOLDER/*.tar'), or a data set of the "
        "Hugging Face Hub.",
    ),
]
Shards = Annotated[
    Path,
    typer.Argument(
        metavar="OUT", help="A folder; one that was begun is gone on with.", parser=given_path
    ),
]
Decode = Annotated[
    bool | None,
    typer.Option("--decode/--encode", help="Default: decode where IN holds .lic streams."),
]
Column = Annotated[str | None, typer.Option(help="Column of a table's images or streams.")]
Subset = Annotated[str | None, typer.Option(help="Configuration of a data set that has several.")]
Workers = Annotated[
    int | None, typer.Option("--jobs", "-j", min=1, help="Workers. Default: all processors.")
]
Address = Annotated[str, typer.Option(help="Of a Ray cluster: auto, HOST:6379. local: none.")]


@app.command()
def bulk(
    source: Source,
    target: Shards,
    pack: Pack = None,
    codec: Codec = None,
    quality: Quality = None,
    decode: Decode = None,
    mode: Annotated[str | None, typer.Option(help="As of decompress, or of compress.")] = None,
    domain: Annotated[str | None, typer.Option(help="The domain, for --mode oracle.")] = None,
    to: Annotated[str, typer.Option(help="tar, parquet or files.")] = "tar",
    format: Annotated[str, typer.Option(help="Of decoded images: png or webp.")] = "png",
    shard: Annotated[int, typer.Option(min=1, help="Images of a shard.")] = 256,
    column: Column = None,
    split: Annotated[str, typer.Option(help="Of a data set.")] = "train",
    subset: Subset = None,
    jobs: Workers = None,
    address: Address = "local",
    object_store: Annotated[int, typer.Option(help="MB of Ray's object store.")] = 200,
    v: V = "gate",
    effort: Effort = 0,
    seed: Seed = 0,
    trust: Trust = None,
) -> None:
    r"""Code very many images on several processes or machines, to shards with an index, and back.

    Started again it goes on; every image counts once, whatever was killed. Images that cannot be coded are
    listed in OUT/errors.parquet. Needs Ray: pip install 'lic-da\[bulk]'.
    """
    from lic_da.files.bulk import run
    from lic_da.files.bulk.cluster import Cluster
    from lic_da.files.bulk.inputs import find
    from lic_da.files.coder import Coder

    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    where, layout = Cluster(address, jobs, object_store), run.Layout(to, shard)
    inside = Path(source).expanduser().resolve()
    if inside.is_dir() and target.resolve().is_relative_to(inside):
        raise UserError(
            f"{target} lies in {source}, and would be taken for a part of it: name another OUT."
        )
    found = find(source, column=column, split=split, subset=subset, decode=decode)
    if not found.streams:
        _check_encoding(v, mode, codec)
    elif v != "gate" or effort:
        raise UserError("--v and --effort are for encoding; IN holds streams.")
    alone = _is_alone(pack, codec, mode) and (found.streams or codec is not None)
    if alone:
        folder = None
    else:
        folder = _decoding_pack(pack, codec, quality) if found.streams else _pack(pack, codec)
    settings = (codec, quality, "base" if alone else mode, domain, format, _trusted(trust))
    coder = Coder(folder, *settings, v=v, effort=effort, seed=seed)
    coder.check()
    _leave(run.run(found, target, coder, layout, where))


@app.command()
def export(
    pack: Annotated[
        Path, typer.Argument(metavar="PACK", help="A pack of method adapters.", parser=given_path)
    ],
    target: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder to write.", parser=given_path)
    ],
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace what was exported there before; other files stay."
        ),
    ] = False,
    quality: Annotated[
        int | None,
        typer.Option(
            help="Of a pack for several, the one that is written. Default: the pack's own."
        ),
    ] = None,
    spatial: Annotated[
        str | None,
        typer.Option(help="image: one v an image, also of a pack that has one for each region."),
    ] = None,
    torch: Annotated[
        bool, typer.Option("--torch", help="Write synthesis.pt2, for torch.export.load, too.")
    ] = False,
    trust: Trust = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, also where a pack is refused.")
    ] = False,
) -> None:
    """Write a pack as ONNX graphs, tables and a manifest, for decoders without torch.

    What is written decodes by --runtime onnx, and by lic_da.runtime.Decoder, which needs numpy, Pillow and
    onnxruntime. Packs that cannot be exported are refused with a reason; with --json as
    {"exported": false, "code": ..., "message": ...}.
    """
    from lic_da.methods.adapters.export import ExportError, export
    from lic_da.methods.pack import load

    try:
        trusted = _trusted(trust)
        codec = load(pack, trust=trusted, spatial=spatial, quality=quality, in_memory=True)
        manifest = export(codec, target, overwrite=overwrite, torch_too=torch)
    except UserError as error:
        if not as_json:
            raise
        code = error.code if isinstance(error, ExportError) else "pack"
        print(json.dumps({"exported": False, "code": code, "message": str(error)}))
        raise typer.Exit(2) from error
    size = sum(file["bytes"] for file in manifest["files"].values())
    if as_json:
        print(json.dumps({"exported": True, "folder": str(target), "bytes": size, **manifest}))
    else:
        print(f"Exported {pack} to {target}: {len(manifest['files'])} files, {size / 1e6:.1f} MB")


@app.command()
def info(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="A .lic stream, or a folder of them.", parser=given_path),
    ],
    pack: Annotated[
        Path | None,
        typer.Option(
            metavar="<path>",
            parser=given_path,
            help="Adapter pack: show the v of its gate (takes seconds).",
        ),
    ] = None,
    trust: Trust = None,
) -> None:
    """Print what streams say of themselves.

    The gate's v is not in a stream unless it was signalled; --pack computes it. The names of its
    domains are those of the default pack, if that is over the same base weights.
    """
    from lic_da.files.batch import inputs
    from lic_da.files.described import described, weights
    from lic_da.io.listing import ends_in

    good = True
    for number, file in enumerate(inputs(source, ends_in(_LIC))):
        lines: list[tuple[str, str]] = []
        try:
            stream = Stream.read(file)
            lines += described(file, stream, pack, _trusted(trust))
            lines += weights(stream, pack, _trusted(trust))
        except UserError as error:
            good = False
            print(printable(f"error: {file}: {error}"), file=sys.stderr)
        if lines:
            told = "\n".join(f"{k:12} {v}" for k, v in lines)
            print(printable(f"\n{told}" if number else told))
    _leave(good)


Where = Annotated[
    str,
    typer.Argument(
        metavar="WHERE",
        help="A folder: what is there, begins with ./ ../ / or ~, or ends in /. Else OWNER/NAME on the "
        "Hugging Face Hub; hf://OWNER/NAME always is. OWNER/NAME@REVISION pulls a commit, tag or branch.",
    ),
]


@app.command()
def push(
    pack: Annotated[
        Path, typer.Argument(metavar="PACK", help="A pack, whatever its method.", parser=given_path)
    ],
    where: Where,
    private: Annotated[
        bool, typer.Option("--private", help="On the Hub: make a repository nobody else sees.")
    ] = False,
    message: Annotated[str | None, typer.Option(help="Of the commit on the Hub.")] = None,
    license: Annotated[
        str | None, typer.Option(help="For the card, as the Hub abbreviates it: mit, cc-by-4.0.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a pack that is there; other files stay.")
    ] = False,
    trust: Trust = None,
) -> None:
    """Send a pack to the Hugging Face Hub or a folder, with a card made from its metrics.

    The pack is opened first. Its own files are sent, a README.md and their hashes, and nothing else
    that lies in its folder. lic-da pull gets it back.
    """
    from lic_da.travel.places import place_of
    from lic_da.travel.push import push

    pushed = push(
        *(pack, place_of(where)),
        private=private,
        message=message,
        licence=license,
        overwrite=overwrite,
        trust=_trusted(trust),
    )
    if pushed.paths:
        named = f"{', '.join(pushed.paths[:3])}{' and others' if len(pushed.paths) > 3 else ''}"
        print(
            printable(f"note: the pack names paths of this machine, for all to read: {named}"),
            file=sys.stderr,
        )
    print(printable(f"Pushed {pack} to {pushed.where}: {_counted(pushed.manifest)}"))


@app.command()
def pull(
    where: Where,
    target: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder to write.", parser=given_path)
    ],
    revision: Annotated[
        str | None, typer.Option(help="Commit, tag or branch on the Hub. Default: the main one.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a pack in FOLDER; other files stay.")
    ] = False,
) -> None:
    """Fetch a pack that lic-da push sent to the Hugging Face Hub or a folder.

    Sizes and hashes are compared before anything appears in FOLDER, and nothing that arrives is run.
    """
    from lic_da.travel.places import place_of
    from lic_da.travel.pull import pull

    place = place_of(where, revision)
    manifest = pull(place, target, overwrite=overwrite)
    print(printable(f"Pulled {place} to {target}: {_counted(manifest)}, hashes compared"))


def _counted(manifest: Manifest) -> str:
    count = len(manifest.files)
    return f"{count} file{'' if count == 1 else 's'}, {manifest.size / 1e6:.1f} MB"


@results.command("export")
def export_results(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_SWEEP", help="Its folder, under outputs/.", parser=given_path
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="A .json file for one curve, or a folder for all.",
            parser=given_path,
        ),
    ],
    format: Annotated[str, typer.Option(help="compressai: what compressai.utils.plot reads.")],
    domain: Annotated[
        list[str] | None,
        typer.Option(help="Domain whose test images count; repeatable. Default: the seen ones."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            "--blend",
            help="Way to decode. Default: the method's own; in a folder all.",
        ),
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="Series of the sweep, as its tables name it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the curve, for legends.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write rate-distortion curves for other tools.

    The JSON has means over test images, an entry a quality: bpp, psnr-rgb, ms-ssim-rgb (linear), seconds.
    """
    from lic_da.sweeps import export as written

    if format not in written.FORMATS:
        raise unknown("format", format, written.FORMATS)
    curve = {"mode": mode, "label": series, "name": name}
    files = written.export(source, target, domains=domain or (), overwrite=overwrite, **curve)
    print(printable(f"{files[0]}" if len(files) == 1 else f"{len(files)} curves in {target}"))


def _trusted(names: Sequence[str] | None) -> tuple[str, ...]:
    """Packages that the user trusts; they may lie in the folder that the command was started in."""
    if names and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return tuple(names or ())


def _pack(pack: Path | None, codec: str | None) -> Path | None:
    """The pack to use: the one named, none beside a codec, else the default."""
    from lic_da.files.coder import default_pack

    _check_either(pack, codec)
    if codec is not None:
        return None
    folder = pack or default_pack()
    if folder is None:
        raise UserError(
            "There is no run under outputs/ yet. Name an adapter pack with --pack, or a base codec with "
            "--codec."
        )
    if pack is None:
        print(f"Pack: {folder}", file=sys.stderr)
    return folder


def _check_either(pack: Path | None, codec: str | None) -> None:
    if pack is not None and codec is not None:
        raise UserError("Give either --pack or --codec: a pack has its own codec.")


def _is_alone(pack: Path | None, codec: str | None, mode: str | None) -> bool:
    """Whether streams are decoded by a base codec, without a pack.

    Raises:
        UserError: both are named, or the mode needs adapters.
    """
    _check_either(pack, codec)
    alone = codec is not None or (mode == "base" and pack is None)
    if alone and mode not in (None, "base"):
        raise UserError(f"A codec alone has no adapters for --mode {mode}.")
    return alone


def _decoding_pack(pack: Path | None, codec: str | None, quality: int | None) -> Path | None:
    folder = _pack(pack, codec)
    if folder is not None and quality is not None:
        raise UserError("A stream says its quality: --quality is for decoding with --codec alone.")
    return folder


def _check_encoding(v: str, mode: str | None, codec: str | None) -> None:
    if mode not in (None, "base"):
        raise UserError(f"--mode {mode} is for decompress: compress takes base, or no mode.")
    if v not in ("gate", "best"):
        raise unknown("--v", v, ("gate", "best"))
    if v == "best" and (mode is not None or codec is not None):
        raise UserError("--v best chooses among a pack's adapters: give no --mode and no --codec.")


def _is_onnx(runtime: str) -> bool:
    if runtime not in RUNTIMES:
        raise unknown("runtime", runtime, RUNTIMES)
    return runtime == "onnx"


def _runtime_coder(
    pack: Path | None,
    codec: str | None,
    quality: int | None,
    processes: int,
    mode: str | None,
    domain: str | None = None,
    format: str = "png",
) -> RuntimeCoder:
    """What codes by an exported pack; the cores are shared among the processes."""
    if pack is None or codec is not None or quality is not None:
        raise UserError(
            "--runtime onnx needs --pack DIR, a folder that 'lic-da export PACK DIR' wrote, and no codec."
        )
    try:
        from lic_da.files.runtime_coder import RuntimeCoder
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise UserError(
            "--runtime onnx needs onnxruntime: pip install 'lic-da[runtime]'."
        ) from error
    return RuntimeCoder(pack, max(1, granted_cpus() // processes), mode, domain, format)


def _format(format: str | None, source: Path, target: str) -> str:
    """``png`` or ``webp``, as asked for, or as the output's name says."""
    if format is not None and format not in FORMATS:
        raise unknown("format", format, FORMATS)
    suffix = Path(target).suffix.lower().removeprefix(".")
    if source.is_dir() or Path(target).is_dir() or target.endswith("/") or suffix == "":
        return format or "png"
    if format is not None:
        if suffix != format and _is_picture(target):
            raise UserError(
                f"{target} should end in .{format}, as --format says; or leave that out."
            )
        return format
    if suffix not in FORMATS:
        raise UserError(f"{target} should end in .png or .webp; or give --format.")
    return suffix


def _is_picture(name: str) -> bool:
    """Whether a file's name ends as those of images do."""
    kind = mimetypes.guess_type(name)[0] or ""
    return kind.startswith("image/") or Path(name).suffix.lower() in (".webp", ".avif", ".jxl")


def _leave(good: bool) -> None:
    if not good:
        raise typer.Exit(2)


def main() -> None:
    """Entry point; mistakes of the user end in one line."""
    use_plain_output()
    ensure_home()
    try:
        app()
    except UserError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # of the machine: no room, no permission, a name that is too long
        if error.strerror is None:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        print(printable(f"error: {where}{error.strerror}"), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
