"""What becomes of the streams that exist already: do they open, to what, and would new ones differ?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lic_da.codecs.image_codec import ImageCodec, to_8_bit
from lic_da.data.datamodule import LabelledImage, to_tensor
from lic_da.evaluation.measure import mean, score
from lic_da.io.bitstream import Stream, StreamError
from lic_da.io.images import read_rgb


def compatibility(codec: ImageCodec, images: Sequence[LabelledImage]) -> dict[str, Any]:
    """Try streams of the base codec with a trained one.

    Args:
        codec: the trained codec.
        images: of the source domain.

    Returns:
        ``images``; ``old_streams_decoded``, how many streams of the base codec open with the mode that
        the method is judged by, and ``refused``, why others do not; ``psnr_of_old_streams`` and
        ``psnr_base`` in dB over those that open; ``same_pictures``, how many of them show the base codec's
        very image; and ``same_streams``, how many new streams are the old ones byte for byte.
    """
    codec.eval()
    rows = [_try(codec, entry) for entry in images]
    opened = [row for row in rows if "psnr" in row]
    return {
        "images": len(rows),
        "old_streams_decoded": len(opened),
        "refused": sorted({str(row["refused"]) for row in rows if "refused" in row}),
        "psnr_of_old_streams": mean(row["psnr"] for row in opened) if opened else None,
        "psnr_base": mean(row["psnr_base"] for row in opened) if opened else None,
        "same_pictures": sum(bool(row["same_image"]) for row in opened),
        "same_streams": sum(bool(row["same_stream"]) for row in rows),
    }


def _try(codec: ImageCodec, entry: LabelledImage) -> dict[str, Any]:
    original = to_tensor(read_rgb(entry.path))
    x = original[None].float().div(255)
    with codec.in_mode("base"):
        old = codec.encode(x)
        base = _decoded(codec, old)
    with codec.in_mode(codec.modes[0]):
        row: dict[str, Any] = {"same_stream": codec.encode(x).to_bytes() == old.to_bytes()}
        try:
            image = _decoded(codec, old)
        except StreamError as error:
            return {**row, "refused": error}
    return {
        **row,
        "psnr": score(image, original, ms_ssim=False)[0],
        "psnr_base": score(base, original, ms_ssim=False)[0],
        "same_image": bool((image == base).all()),
    }


def _decoded(codec: ImageCodec, stream: Stream) -> Tensor:
    """The image of a stream, uint8 ``(3, H, W)``."""
    return to_8_bit(codec.decode(stream))[0].cpu()


def trainable(codec: ImageCodec) -> int:
    """Number of parameters that are being trained."""
    return sum(p.numel() for p in codec.codec.parameters() if p.requires_grad)


def parameters(
    codec: ImageCodec, trained: int, train_domains: Sequence[str], pack_domains: Sequence[str]
) -> dict[str, Any]:
    """What a method costs in parameters.

    Args:
        codec: the trained codec.
        trained: see :func:`trainable`, counted while it was trained.
        train_domains: names of the domains that were learned.
        pack_domains: names of the domains that its pack is for.

    Returns:
        ``trained`` and ``stored`` (what a pack holds, tables included), and both divided by the number
        of domains: ``trained_per_domain``, ``stored_per_domain``.
    """
    stored = sum(value.numel() for value in codec.trained_state().values())
    return {
        "trained": trained,
        "stored": stored,
        "domains": len(train_domains),
        "trained_per_domain": round(trained / len(train_domains)),
        "stored_per_domain": round(stored / len(pack_domains)),
    }
