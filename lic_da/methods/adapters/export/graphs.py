"""Transforms and gate as ONNX graphs, for feature maps of all sizes."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from compressai.layers import GDN
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lic_da.adapters.gate import Gate
from lic_da.adapters.synthesis import AdaptedSynthesis
from lic_da.codecs.models.zou2022 import WindowAttention
from lic_da.codecs.spatial import tiling
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.methods.adapters.export.errors import ExportError
from lic_da.runtime import manifest as exported

OPSET = 20
_FLOAT = 4  # bytes
_FEW_CHANNELS = 16  # transposed convolutions to fewer stay what they are: images have three


class _GDN(nn.Module):
    """GDN (Ballé et al. 2016) with its parameters as they are after their bounds were applied."""

    def __init__(self, gdn: GDN) -> None:
        super().__init__()
        self.inverse = bool(gdn.inverse)
        self.register_buffer("beta", gdn.beta_reparam(gdn.beta).detach().clone())
        self.register_buffer(
            "gamma", gdn.gamma_reparam(gdn.gamma).detach().clone()[:, :, None, None]
        )

    def forward(self, x: Tensor) -> Tensor:
        norm = F.conv2d(x * x, self.gamma, self.beta).sqrt()  # type: ignore[arg-type]
        return x * norm if self.inverse else x / norm


class _GateWeights(nn.Module):
    """V of the gate instead of its logits; pooled the same, without a case for odd sides."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.convolution, self.activation, *_ = gate.features
        self.classify = gate.classify

    def forward(self, y_hat: Tensor) -> Tensor:
        features = self.activation(self.convolution(y_hat))
        beyond = F.pad(features, (0, 1, 0, 1), value=-math.inf)  # never the largest of a window
        pooled = F.max_pool2d(beyond, 2).mean(dim=(2, 3))
        return self.classify(pooled).softmax(dim=1)


def _copied(module: nn.Module) -> Any:
    """A copy in eval mode, without gradients, whose GDN layers are plain ones."""
    wrapped = nn.ModuleDict({"copy": copy.deepcopy(module).cpu().eval().requires_grad_(False)})
    for path, layer in list(wrapped.named_modules()):
        if isinstance(layer, GDN):
            parent, _, name = path.rpartition(".")
            setattr(wrapped.get_submodule(parent), name, _GDN(layer))
    return wrapped["copy"]


def write_graphs(
    codec: AdaptedCodec, folder: Path, geometry: tiling.Geometry, torch_too: bool
) -> None:
    model, scale = codec.codec, geometry.scale
    synthesis = _copied(codec.synthesis)
    assert isinstance(synthesis, AdaptedSynthesis)
    synthesis.merge_in_graph()
    # What cannot be cut is given whole images, whose sides are multiples of the stride; tiles begin on
    # the grid, and end there or where the image does.
    steps = codec.stride // scale
    step = steps if geometry.halo is None else math.gcd(geometry.grid, steps)
    side = 4 * steps
    latent = torch.zeros(1, model.M, side, 2 * side)
    v = torch.full((1, len(codec.domains)), 1 / len(codec.domains))
    program = _program(synthesis, (latent, v), step)
    _write(program, folder / "synthesis.onnx", ["y_hat", "v"], "x_hat")
    if torch_too:
        torch.export.save(program, folder / exported.TORCH)
    gate = _GateWeights(_copied(codec.synthesis.gate))
    _write(_program(gate, (latent,), 1), folder / "gate.onnx", ["y_hat"], "v")
    image = torch.zeros(1, 3, scale * side, 2 * scale * side)
    program = _program(_copied(model.g_a), (image,), scale * step)
    _write(program, folder / "analysis.onnx", ["x"], "y")
    if hasattr(model, "h_a"):
        program = _program(_copied(model.h_a), (latent,), steps)
        _write(program, folder / "hyper_analysis.onnx", ["y"], "z")


def _program(module: nn.Module, inputs: tuple[Tensor, ...], step: int) -> ExportedProgram:
    """What a module computes, for feature maps of all sizes.

    Args:
        module: with these inputs.
        inputs: feature maps have four dimensions.
        step: sides of feature maps are multiples of this.
    """
    # torch.export takes a side of 1 for a case of its own; the graphs hold for it too.
    height, width = step * Dim("height", min=3), step * Dim("width", min=3)
    shapes = tuple({2: height, 3: width} if x.ndim == 4 else None for x in inputs)
    try:
        return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # torch fails in many ways at what it cannot trace
        raise _not_exported(error) from error


def _write(program: ExportedProgram, file: Path, inputs: Sequence[str], output: str) -> None:
    try:
        torch.onnx.export(
            _for_the_runtime(program),
            f=str(file),
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=[output],
            external_data=False,
            verbose=False,
        )
    except Exception as error:
        raise _not_exported(error) from error


def _for_the_runtime(program: ExportedProgram) -> ExportedProgram:
    """The same program in operations that the exporter knows and onnxruntime computes fast.

    Attention becomes products and a softmax, since the exporter knows it for four dimensions only, and
    transposed convolutions become convolutions, which take a fraction of the memory and of the time.
    """
    attention = torch.ops.aten.scaled_dot_product_attention.default
    ways: dict[Any, Callable[..., Any]] = {
        attention: torch.export.default_decompositions()[attention],
        torch.ops.aten.conv_transpose2d.input: _transposed_by_phases,
    }
    if all(node.target not in ways for node in program.graph.nodes):
        return program
    return program.run_decompositions(ways)


def _transposed_by_phases(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    output_padding: Sequence[int] = (0, 0),
    groups: int = 1,
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """``F.conv_transpose2d``, as a convolution for each of the stride² phases of the output.

    Position ``s·i + r`` of a side gets the taps ``k0 + s·t`` of the kernel, where ``k0 = (r + p) mod s``,
    from the positions ``i + (r + p) div s - t``.
    """
    (s, p, side) = stride[0], padding[0], weight.shape[2]
    same = (stride[1], padding[1], weight.shape[3]) == (s, p, side)
    scales = list(output_padding) == [s + 2 * p - side] * 2  # sides become s times as long
    plain = groups == 1 and list(dilation) == [1, 1] and side > p
    if not (same and scales and plain and s > 1 and weight.shape[1] >= _FEW_CHANNELS):
        return torch.ops.aten.convolution(
            x, weight, bias, stride, padding, dilation, True, output_padding, groups
        )
    flipped = weight.transpose(0, 1)
    phases = []
    for row in range(s):
        for column in range(s):
            (rows, above), (columns, left) = (_taps(s, p, side, r) for r in (row, column))
            kernel = flipped[:, :, rows][:, :, :, columns]
            before = len(rows) - 1 - above, len(columns) - 1 - left
            beyond = F.pad(x, (before[1], left, before[0], above))
            phases.append(F.conv2d(beyond, kernel, bias))
    return F.pixel_shuffle(torch.stack(phases, dim=2).flatten(1, 2), s)


def _taps(stride: int, padding: int, side: int, phase: int) -> tuple[list[int], int]:
    """Taps of a kernel that reach a phase of the output, last first, and how far ahead the first reads."""
    ahead, first = divmod(phase + padding, stride)
    return list(range(first, side, stride))[::-1], ahead


def _not_exported(error: Exception) -> ExportError:
    reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
    return ExportError(
        "layer", f"A layer of this codec cannot be exported ({type(error).__name__}: {reason})."
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporter says of itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def geometry_of(codec: AdaptedCodec) -> tiling.Geometry:
    """How images can be cut, for both transforms; with the maps that onnxruntime keeps beside layers'."""
    base, adapters = codec.synthesis_parts
    channels = codec.codec.M
    both = (
        tiling.synthesis_geometry(base, channels, adapters),
        tiling.analysis_geometry(codec.codec.g_a),
    )
    grid = math.lcm(*(g.grid for g in both))
    halos = [g.halo for g in both if g.halo is not None]
    whole = len(halos) < len(both)
    return tiling.Geometry(
        scale=both[0].scale,
        halo=None if whole else grid * math.ceil(max(halos) / grid),
        bytes_each=max(g.bytes_each for g in both) + _unfolded(base, channels),
        grid=1 if whole else grid,
    )


@torch.no_grad()
def _unfolded(g_s: nn.Module, channels: int) -> int:
    """Bytes, for an element of the latent, of the largest map that onnxruntime has beside layers' own.

    A transposed convolution is unfolded, and attention keeps the logits of all windows, twice.
    """
    side, most = 4, 0

    def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal most
        if isinstance(module, nn.ConvTranspose2d):
            area = module.out_channels * int(np.prod(module.kernel_size))
            most = max(most, area * inputs[0][0, 0].numel())
        if isinstance(module, WindowAttention):
            *windows, positions, _ = inputs[0].shape
            most = max(most, 2 * module.heads * math.prod(windows) * positions**2)

    hooks = [m.register_forward_pre_hook(measure) for m in g_s.modules()]
    try:
        g_s(next(g_s.parameters()).new_zeros(1, channels, side, side))
    finally:
        for hook in hooks:
            hook.remove()
    return _FLOAT * most // side**2
