"""The entropy model of a codec as settings and arrays, without any code."""

from __future__ import annotations

from typing import Any

from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from compressai.models import CompressionModel
from numpy.typing import NDArray
from torch import Tensor, nn

from lic_da.codecs.latents import only_bottleneck
from lic_da.codecs.models.hyperprior import MeanScaleHyperprior
from lic_da.codecs.models.zou2022_variable import STEEPEST, VariableRateWACNN
from lic_da.methods.adapters.export.errors import ExportError


def entropy_of(model: CompressionModel) -> tuple[dict[str, Any], dict[str, NDArray]]:
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
        tensors[f"{name}.cdf"] = array(module.quantized_cdf)
        tensors[f"{name}.lengths"] = array(module.cdf_length)
        tensors[f"{name}.offsets"] = array(module.offset)
        if isinstance(module, EntropyBottleneck):
            tensors["bottleneck.medians"] = array(module._get_medians()).ravel()
        if isinstance(module, GaussianConditional):
            tensors["gaussian.scales"] = array(module.scale_table)
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
        tensors[f"{name}gain"] = array(gains.gain(rate)).ravel()
        tensors[f"{name}inverse"] = array(gains.inverse(rate)).ravel()
    return settings, {**_tables(model), **tensors}


def _layers(net: nn.Module, prefix: str) -> tuple[list[dict[str, Any]], dict[str, NDArray]]:
    """The layers of a network for :class:`lic_da.runtime.layers.Layers`, and their tensors."""
    specs: list[dict[str, Any]] = []
    tensors: dict[str, NDArray] = {}
    for number, layer in enumerate(net.children()):
        specs.append(_spec(layer))
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.bias is not None
            tensors[f"{prefix}.{number}.weight"] = array(layer.weight)
            tensors[f"{prefix}.{number}.bias"] = array(layer.bias)
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


def array(tensor: Tensor) -> NDArray:
    return tensor.detach().cpu().numpy()
