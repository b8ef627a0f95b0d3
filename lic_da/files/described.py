"""What a stream says of itself, in lines of a name and a text; torch is imported only for a pack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lic_da.io.bitstream import CHOSEN_UNITS, Stream

Line = tuple[str, str]

_FEW = 8  # domains whose weights are all shown


def described(path: Path, stream: Stream, pack: Path | None, trust: Sequence[str]) -> list[Line]:
    """What a stream says of itself: size, bits, codec, latent.

    Args:
        path: of its file.
        stream: read from there.
        pack: a pack that may have written it; None: none is looked into.
        trust: packages outside lic_da whose classes the pack may name.

    Raises:
        UserError: the pack cannot be opened.
    """
    from lic_da.codecs import fingerprints

    base = fingerprints.find(stream.fingerprint)
    origin = [("codec", base.codec), ("quality", str(base.quality))] if base else []
    if base is None and pack is None:
        origin = [("codec", "none of this package's; --pack DIR tells whether that pack wrote it")]
    elif pack is not None:
        origin += _origin(stream, pack, trust)
    strings = "1 string" if len(stream.strings) == 1 else f"{len(stream.strings)} strings"
    return [
        ("file", f"{path}, {_size(path, stream)} bytes"),
        ("size", f"{stream.width}×{stream.height}"),
        ("bpp", f"{stream.bpp:.3f} ({stream.string_bytes} bytes in {strings})"),
        *origin,
        ("weights", f"{stream.fingerprint.hex()}…"),
        ("latent", f"{stream.shape[1]}×{stream.shape[0]}"),
    ]


def _size(path: Path, stream: Stream) -> int:
    """Bytes of a stream's file; of what is no regular file those of the stream."""
    return path.stat().st_size if path.is_file() else len(stream.to_bytes())


def _origin(stream: Stream, pack: Path, trust: Sequence[str]) -> list[Line]:
    """Whether a pack, or its base codec, has written the stream."""
    from lic_da.files.coder import load

    codec = load(pack, trust)
    for quality, base in codec.fingerprints.items():
        if bytes.fromhex(base).startswith(stream.fingerprint):
            made = f"{codec.config.name}, quality {quality}"
            return [("written by", f"the pack's base codec ({made})")]
    if bytes.fromhex(codec.string_weights(codec.modes[0])).startswith(stream.fingerprint):
        made = f"{codec.config.name}, quality {codec.config.quality}, {codec.method}"
        return [("written by", f"the pack ({made})")]
    return [("written by", "neither the pack nor its base codec")]


def weights(stream: Stream, pack: Path | None, trust: Sequence[str]) -> list[Line]:
    """The weights of the adapters: those that the stream holds, or those of the pack's gate.

    Args:
        stream: of which image.
        pack: whose gate; None: what can be told without one, with the default pack's names of domains.
        trust: packages outside lic_da whose classes the pack may name.

    Raises:
        UserError: the pack cannot be opened, or it did not write the stream.
    """
    if pack is not None:
        from lic_da.files.coder import load
        from lic_da.methods.adapters.codec import AdaptedCodec

        codec = load(pack, trust)
        if not isinstance(codec, AdaptedCodec):
            return []  # no gate
        found = codec.gate_weights(stream)
        values = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        if stream.chosen is not None:
            return [("chosen v", f"{values} (by the encoder, {_took(stream)})")]
        return [("gate's v", f"{values} ({'signalled' if stream.v else 'by the pack'})")]
    from lic_da.codecs import fingerprints
    from lic_da.files.coder import default_pack, domains_of

    folder = default_pack()
    names = domains_of(folder, stream.fingerprint) if folder is not None else None
    if stream.chosen is not None:
        return [("chosen v", _chosen(stream.chosen, names, folder, _took(stream)))]
    if stream.v is None and fingerprints.find(stream.fingerprint) is None:
        return []
    if stream.v is None:
        shown = f"--pack {folder} shows it" if names is not None else "--pack DIR shows it"
        return [("gate's v", f"not signalled; {shown}")]
    shares = [f"{value / sum(stream.v):.3f}" for value in stream.v]
    if names is None or len(names) != len(shares):
        return [("gate's v", f"{' '.join(shares)} (signalled; --pack DIR gives the names)")]
    named = ", ".join(f"{name} {value}" for name, value in zip(names, shares, strict=True))
    return [("gate's v", f"{named} (signalled; names from {folder})")]


def _chosen(
    chosen: Sequence[int], names: Sequence[str] | None, folder: Path | None, took: str
) -> str:
    """A chosen v in words; entries that are zero are left out where there are many."""
    if not any(chosen):
        return f"no adapters: as the base decoder (by the encoder, {took})"
    fits = names is not None and len(names) == len(chosen)
    labels = names if fits and names is not None else [f"domain {k}" for k in range(len(chosen))]
    named = zip(labels, chosen, strict=True)
    values = [f"{name} {c / CHOSEN_UNITS:.3f}" for name, c in named if c or len(chosen) <= _FEW]
    origin = f"names from {folder}" if fits else "--pack DIR gives the names"
    return f"{', '.join(values)} (by the encoder, {took}; {origin})"


def _took(stream: Stream) -> str:
    return "1 byte" if stream.v_bytes == 1 else f"{stream.v_bytes} bytes"
