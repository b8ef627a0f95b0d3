"""A pack as a model of CompressAI, for its own tools: ``compressai.utils.eval_model`` and what is like it.

::

    from compressai.utils.eval_model.__main__ import main
    from lic_da.compressai_model import register

    register("mine", {3: "outputs/NAME/pack"})
    main(["pretrained", "images/", "-a", "mine", "-q", "3", "-d", "out"])

``eval_model`` pads images with zeros to multiples of 64, on all sides; lic_da continues them to multiples
of the codec's stride. Where both sides of an image are multiples of 64 nothing is padded, and bpp and PSNR
are the same; elsewhere the two code different images.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from compressai import zoo
from compressai.models import CompressionModel
from torch import Tensor, nn

from lic_da.errors import UserError, unknown
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.pack import load


class PackModel(nn.Module):
    """The codec of a pack with CompressAI's own methods, decoding in one way.

    Attributes:
        model: the CompressAI model that does it.
    """

    def __init__(
        self,
        folder: Path | str,
        mode: str | None = None,
        domain: str | None = None,
        *,
        trust: Sequence[str] = (),
        quality: int | None = None,
    ) -> None:
        """Open a pack.

        Args:
            folder: of the pack, of any method.
            mode: way to decode; None: the one the method is judged by.
            domain: for ``oracle``, the domain whose adapters to use.
            trust: see :func:`lic_da.load`.
            quality: of a pack for several; None: the pack's own.

        Raises:
            UserError: it is no pack, there is no such mode or domain, or it needs what CompressAI's
                interface has no place for: its gate's v in the stream, or decoded symbols in ``g_s``.
        """
        super().__init__()
        codec = load(folder, trust=trust, quality=quality)
        codec.eval()
        chosen = mode or codec.modes[0]
        codec.check_mode(chosen, domain)
        signalled = isinstance(codec, AdaptedCodec) and codec.synthesis.gate_input == "signalled"
        if signalled and chosen in ("weighted", "top1"):
            raise UserError(
                f"The pack {folder} writes its gate's v into the stream, and CompressAI's strings have "
                "no place for it: take the mode base or oracle."
            )
        if (
            isinstance(codec, AdaptedCodec)
            and codec.synthesis.points is not None
            and chosen != "base"
        ):
            raise UserError(
                f"The pack {folder} has reconstruction points, for which its decoder needs symbols, and "
                "CompressAI's models hand over ŷ alone: take the mode base, or lic_da itself."
            )
        in_mode = ExitStack()  # as long as there is this object, which decodes in this way alone
        in_mode.enter_context(codec.in_mode(chosen, domain))
        weakref.finalize(self, in_mode.close)
        self.model: CompressionModel = codec.model
        self.eval()

    def forward(self, x: Tensor) -> dict[str, Any]:
        """``x_hat`` and ``likelihoods`` of images ``(B, 3, H, W)`` in [0, 1]."""
        out: dict[str, Any] = self.model(x)
        return out

    @torch.inference_mode()
    def compress(self, x: Tensor) -> dict[str, Any]:
        """``strings`` and ``shape`` of images ``(B, 3, H, W)`` in [0, 1]."""
        out: dict[str, Any] = self.model.compress(x)
        return out

    @torch.inference_mode()
    def decompress(self, strings: Sequence[Sequence[bytes]], shape: Any) -> dict[str, Any]:
        """``x_hat`` in [0, 1], ``(B, 3, H, W)``; strings have to be whole and of this model."""
        out: dict[str, Any] = self.model.decompress(strings, shape)
        return out

    def update(self, *args: Any, **kwargs: Any) -> bool:
        """Nothing to be done: a pack has the tables that its streams are written by."""
        return False


def register(
    name: str,
    packs: Mapping[int, Path | str],
    mode: str | None = None,
    domain: str | None = None,
    *,
    trust: Sequence[str] = (),
) -> None:
    """Give packs a name in CompressAI's zoo, under which its tools find them as pre-trained models.

    Args:
        name: for ``-a``, the architecture.
        packs: quality, for ``-q`` -> folder of a pack for it; one for all qualities stands once for each.
        mode: see :class:`PackModel`, as all that follows.
        domain: for ``oracle``.
        trust: packages whose classes the packs may name.

    Raises:
        UserError: CompressAI has a model of this name itself.
    """
    models = zoo.image_models
    if not getattr(models.get(name), "is_of_packs", name not in models):
        raise UserError(f"CompressAI has a model {name} itself: choose another name.")

    def model(quality: int, **_: Any) -> PackModel:
        if quality not in packs:
            raise unknown("quality", quality, packs, f"of {name}")
        return PackModel(packs[quality], mode, domain, trust=trust, quality=quality)

    model.is_of_packs = True  # type: ignore[attr-defined]
    models[name] = model
