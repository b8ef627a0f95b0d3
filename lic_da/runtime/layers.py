"""Layers in double precision, for the networks that state the distributions of symbols.

Encoder and decoder must come to the same tables on every machine, so these networks are computed in double
precision (see ``lic_da.codecs.models.hyperprior``). onnxruntime has no convolutions of doubles; here they
are sums of products of matrices, one for each element of a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""``(C, H, W)``."""

KINDS = ("conv", "conv_transpose", "leaky_relu", "gelu")


class Layers:
    """Layers one after another, as a manifest lists them.

    Args:
        specs: ``{"kind": "conv", "padding": p}`` (stride 1), ``{"kind": "conv_transpose", "stride": s,
            "padding": p, "output_padding": o}``, ``{"kind": "leaky_relu", "slope": a}`` or
            ``{"kind": "gelu"}`` each.
        tensors: weights ``(C_out, C_in, k, k)``, of transposed convolutions ``(C_in, C_out, k, k)``, and
            biases ``(C_out,)``, named ``PREFIX.NUMBER.weight`` and ``PREFIX.NUMBER.bias``.
        prefix: of their names.

    Raises:
        KeyError: a tensor is missing.
        ValueError: there is no such kind, or a tensor or number is not one of such a layer.
    """

    def __init__(
        self, specs: Sequence[Mapping[str, Any]], tensors: Mapping[str, NDArray], prefix: str
    ) -> None:
        self._layers = [
            _layer(spec, tensors, f"{prefix}.{number}") for number, spec in enumerate(specs)
        ]

    def __call__(self, x: Array) -> Array:
        """``(C, H, W)`` -> ``(C', H', W')``, both in double precision."""
        for layer in self._layers:
            x = layer(x)
        return x


def _layer(
    spec: Mapping[str, Any], tensors: Mapping[str, NDArray], name: str
) -> Callable[[Array], Array]:
    kind = spec.get("kind")
    if kind == "leaky_relu":
        slope = float(spec["slope"])
        return lambda x: np.where(x > 0, x, slope * x)
    if kind == "gelu":
        return gelu
    if kind not in KINDS:
        raise ValueError(f"there are layers {', '.join(KINDS)}, but not {kind!r}")
    weight, bias = (tensors[f"{name}.{part}"].astype(np.float64) for part in ("weight", "bias"))
    if weight.ndim != 4 or bias.ndim != 1 or weight.shape[kind == "conv_transpose"] != len(bias):
        raise ValueError(f"{name} has no weights of a {kind}")
    padding = _whole(spec, "padding", max(weight.shape[2:]) - 1)
    weight = np.ascontiguousarray(weight.transpose(2, 3, *((0, 1) if kind == "conv" else (1, 0))))
    if kind == "conv":
        return lambda x: convolve(x, weight, bias, padding)
    stride, more = _whole(spec, "stride", 16, 1), _whole(spec, "output_padding", padding)
    return lambda x: convolve_transposed(x, weight, bias, stride, padding, more)


def _whole(spec: Mapping[str, Any], key: str, most: int, least: int = 0) -> int:
    value = spec[key]
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{key} is {value!r}, not a number from {least} to {most}")
    return value


def convolve(x: Array, weight: Array, bias: Array, padding: int) -> Array:
    """A convolution of stride 1.

    Rows lie behind one another with their margins, so what an element of the kernel sees is one piece of
    memory; what comes out between two rows is of no use.

    Args:
        x: ``(C_in, H, W)``.
        weight: ``(k, k, C_out, C_in)``, in this order in memory: numpy multiplies other matrices slowly.
        bias: ``(C_out,)``.
        padding: rows and columns of zeros on each side.
    """
    rows, columns, outputs, _ = weight.shape
    # One row more, which the last elements of the kernel reach into.
    x = np.pad(x, ((0, 0), (padding, padding + 1), (padding, padding)))
    height, width = x.shape[1] - rows, x.shape[2]
    flat = x.reshape(len(x), -1)
    out = np.repeat(bias[:, None], height * width, axis=1)
    for i in range(rows):
        for j in range(columns):
            first = i * width + j
            out += weight[i, j] @ flat[:, first : first + height * width]
    return out.reshape(outputs, height, width)[:, :, : width - columns + 1]


def convolve_transposed(
    x: Array, weight: Array, bias: Array, stride: int, padding: int, output_padding: int
) -> Array:
    """A transposed convolution.

    Args:
        x: ``(C_in, H, W)``.
        weight: ``(k, k, C_out, C_in)``, in this order in memory.
        bias: ``(C_out,)``.
        stride: of the output.
        padding: rows and columns of the output that are cut off on each side.
        output_padding: rows and columns that stay at the end; at most ``padding``.
    """
    rows, columns, outputs, inputs = weight.shape
    height, width = x.shape[1:]
    flat = x.reshape(inputs, -1)
    out = np.zeros((outputs, (height - 1) * stride + rows, (width - 1) * stride + columns))
    for i in range(rows):
        for j in range(columns):
            part = out[:, i : i + stride * height : stride, j : j + stride * width : stride]
            part += (weight[i, j] @ flat).reshape(outputs, height, width)
    end = padding - output_padding
    inside = out[:, padding : out.shape[1] - end, padding : out.shape[2] - end]
    return inside + bias[:, None, None]


def gelu(x: Array) -> Array:
    """x·Φ(x), with the standard library's erf: numpy has none."""
    scaled = (x * math.sqrt(0.5)).ravel().tolist()
    erf = np.fromiter(map(math.erf, scaled), np.float64, x.size).reshape(x.shape)
    return 0.5 * x * (1 + erf)
