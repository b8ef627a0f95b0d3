"""Exporting a pack for decoders without torch: ONNX graphs, tables of the entropy coder, a manifest.

What is written is described, and read, by :mod:`lic_da.runtime`. The synthesis graph holds base weights and
adapters as they are and merges them by v, its input. Every export is checked before it
appears: an image is encoded by torch and decoded by both.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from compressai.layers import GDN
from compressai.models import CompressionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lic_da.adapters.gate import Gate
from lic_da.adapters.synthesis import AdaptedSynthesis
from lic_da.codecs.image_codec import ImageCodec
from lic_da.codecs.latents import only_bottleneck
from lic_da.codecs.models.hyperprior import MeanScaleHyperprior
from lic_da.codecs.models.zou2022_variable import STEEPEST, VariableRateWACNN
from lic_da.codecs.spatial import tiling
from lic_da.errors import NotWritable, UserError
from lic_da.io.bitstream import Stream
from lic_da.io.files import appearing, user_path, write_text
from lic_da.methods.adapters.codec import AdaptedCodec
from lic_da.runtime import manifest as exported
from lic_da.surroundings import package_version

Code = Literal[
    "method",
    "calibration",
    "spatial",
    "points",
    "entropy_model",
    "layer",
    "different",
    "not_installed",
    "exists",
    "not_writable",
]
"""Why a pack cannot be exported, for programs: its method is not ``adapters``; its gate is calibrated, or
finds a v per region; it has reconstruction points; its entropy model is none that the runtime has, or
computes distributions in single precision; a layer has no counterpart; the runtime decodes to another
image; onnx, onnxscript or onnxruntime are missing; the folder is there already, or cannot be written."""

_OPSET = 20
_FLOAT = 4  # bytes
_FEW_CHANNELS = 16  # transposed convolutions to fewer stay what they are: images have three
_ROUNDED = 1e-6  # of ŷ, whose values have steps of 1
_CHECKED = (80, 208)  # height and width of the image that exports are checked with


class ExportError(UserError):
    """A pack cannot be exported.

    Attributes:
        code: why, for programs; see :data:`Code`.
    """

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def export(
    codec: ImageCodec, folder: Path, *, overwrite: bool = False, torch_too: bool = False
) -> dict[str, Any]:
    """Write a codec for :class:`lic_da.runtime.Decoder`; the folder appears whole or not at all.

    Args:
        codec: of a pack.
        folder: where to.
        overwrite: replace what was exported there before.
        torch_too: write ``synthesis.pt2`` too, for ``torch.export.load``: ``(y_hat, v)`` to ``x_hat``.

    Returns:
        The manifest.

    Raises:
        ExportError: it cannot be exported, or the folder is there.
        UserError: its adapters stay in a file.
    """
    folder = Path(os.path.realpath(user_path(folder)))
    _check_free(folder, overwrite)
    _check_installed()
    if not isinstance(codec, AdaptedCodec):
        raise ExportError(
            "method",
            f"Packs of method adapters can be exported, but this one is of method {codec.method}.",
        )
    _check_the_runtime_has(codec)
    codec.bank_in_memory("exported")
    settings, tensors = _entropy(codec.codec)
    with _appearing(folder) as temporary:
        geometry = _geometry(codec)
        with _quiet():
            _write_graphs(codec, temporary, geometry, torch_too)
        with (temporary / exported.TABLES).open("wb") as file:
            np.savez(file, **tensors)  # type: ignore[arg-type]
        content = _manifest(codec, geometry, settings, temporary)
        write_text(temporary / exported.MANIFEST, json.dumps(content, indent=1) + "\n")
        _check(codec, temporary)
    return content


def _check_free(folder: Path, overwrite: bool) -> None:
    """Raise an ExportError if anything would be lost in a folder that is written to."""
    if not folder.exists():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        ours = (folder / exported.MANIFEST).is_file()
        if not (ours and overwrite):
            hint = "--overwrite replaces it" if ours else "name another, or an empty one"
            raise ExportError("exists", f"{folder} exists; {hint}.")


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """As :func:`lic_da.io.files.appearing`; of an earlier export that had more nothing stays.

    Raises:
        ExportError: nothing can be written there.
    """
    try:
        with appearing(folder, exported.MANIFEST, exported.FILES) as temporary:
            yield temporary
    except NotWritable as error:
        raise ExportError("not_writable", str(error)) from error


def _check_installed() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            raise ExportError(
                "not_installed",
                f"Exporting needs {package}, which is not installed: pip install 'lic-da[export]'.",
            ) from None


def _check_the_runtime_has(codec: AdaptedCodec) -> None:
    """Raise an ExportError if decoding takes what the runtime does not do."""
    if codec.synthesis.trust is not None:
        raise ExportError(
            "calibration",
            "The gate of this pack is calibrated (gate.calibration=learned), which the runtime lacks.",
        )
    if codec.synthesis.spatial != "image":
        raise ExportError(
            "spatial",
            "This pack finds a v for each region of an image (gate.spatial=window), which the runtime "
            "cannot: --spatial image exports it with one v an image.",
        )
    if codec.synthesis.points is not None:
        raise ExportError(
            "points",
            f"This pack has reconstruction points (points={codec.adapter_config.points}), "
            "which the runtime lacks.",
        )


def _manifest(
    codec: AdaptedCodec, geometry: tiling.Geometry, entropy: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    synthesis = codec.synthesis
    files = {
        file.name: {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(folder.iterdir())
    }
    return {
        "format": exported.FORMAT,
        "made_with": {"lic_da": package_version(), "torch": torch.__version__, "opset": _OPSET},
        "codec": {
            "name": codec.config.name,
            "quality": int(codec.config.quality),
            "fingerprint": codec.fingerprint,
            "stride": codec.stride,
            "channels": int(codec.codec.M),
        },
        "domains": list(codec.domains),
        "blend": synthesis.mode,
        "gate": {"input": synthesis.gate_input, "threshold": float(synthesis.threshold)},
        "geometry": {
            "scale": geometry.scale,
            "halo": geometry.halo,
            "bytes": geometry.bytes_each,
        },
        "entropy": entropy,
        "files": files,
    }


# --- graphs ---------------------------------------------------------------------------------------------


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


def _write_graphs(
    codec: AdaptedCodec, folder: Path, geometry: tiling.Geometry, torch_too: bool
) -> None:
    model, scale = codec.codec, geometry.scale
    synthesis = _copied(codec.synthesis)
    assert isinstance(synthesis, AdaptedSynthesis)
    synthesis.merge_in_graph()
    # What cannot be cut is given whole images, whose sides are multiples of the stride.
    steps = codec.stride // scale
    step = steps if geometry.halo is None else 1
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
            opset_version=_OPSET,
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
def _quiet() -> Iterator[None]:
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


def _geometry(codec: AdaptedCodec) -> tiling.Geometry:
    """How images can be cut, for both transforms; with the columns that onnxruntime unfolds maps to."""
    base, adapters = codec.synthesis_parts
    both = (
        tiling.synthesis_geometry(base, codec.codec.M, adapters),
        tiling.analysis_geometry(codec.codec.g_a),
    )
    # The runtime knows of no windows: what has them is not cut.
    halos = [geometry.halo if geometry.grid == 1 else None for geometry in both]
    return tiling.Geometry(
        scale=both[0].scale,
        halo=None if None in halos else max(h for h in halos if h is not None),
        bytes_each=max(g.bytes_each for g in both) + _unfolded(base, codec.codec.M),
    )


@torch.no_grad()
def _unfolded(g_s: nn.Module, channels: int) -> int:
    """Bytes, for an element of the latent, of the largest unfolded map of a transposed convolution."""
    side, most = 4, 0

    def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal most
        if isinstance(module, nn.ConvTranspose2d):
            area = module.out_channels * int(np.prod(module.kernel_size))
            most = max(most, area * inputs[0][0, 0].numel())

    hooks = [m.register_forward_pre_hook(measure) for m in g_s.modules()]
    try:
        g_s(next(g_s.parameters()).new_zeros(1, channels, side, side))
    finally:
        for hook in hooks:
            hook.remove()
    return _FLOAT * most // side**2


# --- entropy models -------------------------------------------------------------------------------------


def _entropy(model: CompressionModel) -> tuple[dict[str, Any], dict[str, NDArray]]:
    """``entropy`` of the manifest and the arrays of ``tables.npz``."""
    if only_bottleneck(model) is not None:
        return {"kind": "factorized"}, _tables(model)
    if isinstance(model, MeanScaleHyperprior):
        layers, tensors = _layers(model.h_s, "h_s")
        return {"kind": "mean_scale_hyperprior", "h_s": layers}, {**_tables(model), **tensors}
    if isinstance(model, VariableRateWACNN):
        return _channelwise(model)
    raise ExportError(
        "entropy_model",
        f"The entropy model of {type(model).__name__} is none that the runtime has: a factorized prior, or "
        "distributions that are stated in double precision (mbt2018_mean_n64, zou2022_n64). Others are not "
        "sure to be read elsewhere.",
    )


def _tables(model: CompressionModel) -> dict[str, NDArray]:
    tensors: dict[str, NDArray] = {}
    for module in model.modules():
        if not isinstance(module, EntropyModel):
            continue
        name = "bottleneck" if isinstance(module, EntropyBottleneck) else "gaussian"
        tensors[f"{name}.cdf"] = _array(module.quantized_cdf)
        tensors[f"{name}.lengths"] = _array(module.cdf_length)
        tensors[f"{name}.offsets"] = _array(module.offset)
        if isinstance(module, EntropyBottleneck):
            tensors["bottleneck.medians"] = _array(module._get_medians()).ravel()
        if isinstance(module, GaussianConditional):
            tensors["gaussian.scales"] = _array(module.scale_table)
    return tensors


def _channelwise(model: VariableRateWACNN) -> tuple[dict[str, Any], dict[str, NDArray]]:
    h_s, tensors = _layers(model.h_s, "h_s")
    settings: dict[str, Any] = {"kind": "channelwise", "h_s": h_s}
    for name in ("parameter_nets", "residual_nets"):
        settings[name] = []
        for i, net in enumerate(getattr(model, name)):
            layers, own = _layers(net, f"{name}.{i}")
            settings[name].append(layers)
            tensors |= own
    settings["support"] = model.support
    settings["steepest"] = STEEPEST
    settings["least_scale"] = float(model.gaussian_conditional.lower_bound_scale.bound)
    rate = model.rate[None]
    for name, gains in (("", model.gains), ("hyper_", model.hyper_gains)):
        tensors[f"{name}gain"] = _array(gains.gain(rate)).ravel()
        tensors[f"{name}inverse"] = _array(gains.inverse(rate)).ravel()
    return settings, {**_tables(model), **tensors}


def _layers(net: nn.Module, prefix: str) -> tuple[list[dict[str, Any]], dict[str, NDArray]]:
    """The layers of a network for :class:`lic_da.runtime.layers.Layers`, and their tensors."""
    specs: list[dict[str, Any]] = []
    tensors: dict[str, NDArray] = {}
    for number, layer in enumerate(net.children()):
        specs.append(_spec(layer))
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.bias is not None
            tensors[f"{prefix}.{number}.weight"] = _array(layer.weight)
            tensors[f"{prefix}.{number}.bias"] = _array(layer.bias)
    return specs, tensors


def _spec(layer: nn.Module) -> dict[str, Any]:
    if isinstance(layer, nn.LeakyReLU):
        return {"kind": "leaky_relu", "slope": float(layer.negative_slope)}
    if isinstance(layer, nn.GELU) and layer.approximate == "none":
        return {"kind": "gelu"}
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        stride, padding, dilation = (
            {int(n) for n in pair} for pair in (layer.stride, layer.padding, layer.dilation)
        )
        plain = len(stride) == len(padding) == 1 and dilation == {1} and layer.groups == 1
        if isinstance(layer, nn.ConvTranspose2d) and plain and len({*layer.output_padding}) == 1:
            return {
                "kind": "conv_transpose",
                "stride": stride.pop(),
                "padding": padding.pop(),
                "output_padding": int(layer.output_padding[0]),
            }
        if isinstance(layer, nn.Conv2d) and plain and stride == {1}:
            return {"kind": "conv", "padding": padding.pop()}
    raise ExportError("layer", f"{layer}, of the entropy model, has no counterpart in the runtime.")


def _array(tensor: Tensor) -> NDArray:
    return tensor.detach().cpu().numpy()


# --- the check ------------------------------------------------------------------------------------------


def _check(codec: AdaptedCodec, folder: Path) -> None:
    """Encode an image by torch, decode it by torch and by the runtime, and compare.

    Raises:
        ExportError: symbols of the latent differ at all, ŷ by more than its rounding, or images by
            more than one of 255 levels.
    """
    from lic_da.runtime import Decoder

    height, width = _CHECKED
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([(3 * rows + columns) % 256, rows * columns // 64 % 256, columns], axis=-1)
    stream = Stream.from_bytes(codec.compress(image.astype(np.uint8)))
    try:
        decoder = Decoder(folder)
        # The stream's checksum holds symbols to the bit; what is predicted beside them is rounded once.
        apart = decoder.latent(stream) - _array(codec.latent(stream))[0]
        modes = [(mode, codec.domains[-1] if mode == "oracle" else None) for mode in codec.modes]
        differences = [
            decoder.decompress(stream, *how).astype(int) - codec.decompress(stream, *how)
            for how in modes
        ]
    except UserError as error:
        raise ExportError("different", f"What was exported cannot be decoded: {error}") from error
    if np.abs(apart).max() > _ROUNDED or max(np.abs(d).max() for d in differences) > 1:
        raise ExportError("different", "The runtime decodes to another image than torch does.")
