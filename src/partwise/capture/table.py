"""The operations that a captured module may have: nothing else is computed, whatever a graph says.

Modules by the name of their class in `torch.nn` with the values that construct them; functions
and methods of torch, and operators of `torch.ops.aten`, by name. All of them give new values: what
changes its arguments is written as what does not (`IN_PLACE`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from partwise.errors import DamagedModel

_CONV = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups",
    "bias", "padding_mode",
)  # fmt: skip
_BATCH_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_MAX_POOL = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
_AVG_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_RECURRENT = (
    "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional",
)  # fmt: skip

MODULES: dict[str, tuple[str, ...]] = {
    "AdaptiveAvgPool1d": ("output_size",),
    "AdaptiveAvgPool2d": ("output_size",),
    "AdaptiveMaxPool1d": ("output_size",),
    "AdaptiveMaxPool2d": ("output_size",),
    "AvgPool1d": _AVG_POOL,
    "AvgPool2d": (*_AVG_POOL, "divisor_override"),
    "BatchNorm1d": _BATCH_NORM,
    "BatchNorm2d": _BATCH_NORM,
    "Conv1d": _CONV,
    "Conv2d": _CONV,
    "Dropout": ("p",),
    "Dropout1d": ("p",),
    "Dropout2d": ("p",),
    "ELU": ("alpha",),
    "Embedding": ("num_embeddings", "embedding_dim", "padding_idx"),
    "Flatten": ("start_dim", "end_dim"),
    "GELU": ("approximate",),
    "GLU": ("dim",),
    "GRU": _RECURRENT,
    "GroupNorm": ("num_groups", "num_channels", "eps", "affine"),
    "Hardsigmoid": (),
    "Hardswish": (),
    "Hardtanh": ("min_val", "max_val"),
    "Identity": (),
    "LSTM": (*_RECURRENT, "proj_size"),
    "LayerNorm": ("normalized_shape", "eps", "elementwise_affine", "bias"),
    "LeakyReLU": ("negative_slope",),
    "Linear": ("in_features", "out_features", "bias"),
    "LogSoftmax": ("dim",),
    "MaxPool1d": _MAX_POOL,
    "MaxPool2d": _MAX_POOL,
    "Mish": (),
    "MultiheadAttention": ("embed_dim", "num_heads", "dropout", "bias", "kdim", "vdim",
                           "batch_first"),
    "PReLU": ("num_parameters",),
    "RMSNorm": ("normalized_shape", "eps", "elementwise_affine"),
    "RNN": ("input_size", "hidden_size", "num_layers", "nonlinearity", "bias", "batch_first",
            "dropout", "bidirectional"),
    "ReLU": (),
    "ReLU6": (),
    "SELU": (),
    "SiLU": (),
    "Sigmoid": (),
    "Softmax": ("dim",),
    "Softplus": ("beta", "threshold"),
    "Tanh": (),
    "Unflatten": ("dim", "unflattened_size"),
    "Upsample": ("size", "scale_factor", "mode", "align_corners"),
    "ZeroPad2d": ("padding",),
}  # fmt: skip

_ARITHMETIC = """
    abs add ceil clamp cos div eq erf exp floor floor_divide ge gt le log log1p logical_and
    logical_not logical_or lt masked_fill maximum minimum mul ne neg pow reciprocal relu remainder
    round rsqrt sigmoid sign sin sqrt square sub tanh tril triu where
"""
_SHAPES = """
    broadcast_to cat chunk concat expand_as flatten flip movedim narrow permute repeat_interleave
    reshape roll select split squeeze stack swapaxes transpose unbind unflatten unsqueeze
"""
_REDUCTIONS = """
    all amax amin any argmax argmin cumsum diff log_softmax logsumexp max mean min norm prod
    softmax std sum topk var
"""
_PRODUCTS = "addmm baddbmm bmm einsum matmul mm"
_MAKERS = "arange full full_like ones ones_like zeros zeros_like"
_NETS = """
    adaptive_avg_pool1d adaptive_avg_pool2d avg_pool1d avg_pool2d batch_norm conv1d conv2d dropout
    elu embedding gelu glu group_norm hardsigmoid hardswish hardtanh layer_norm leaky_relu linear
    max_pool1d max_pool2d mish pad rms_norm scaled_dot_product_attention selu silu softplus
"""
_ONLY_ATEN = """
    __and__ __or__ __xor__ _log_softmax _softmax _to_copy _unsafe_view alias bitwise_and
    bitwise_not bitwise_or bitwise_xor clone contiguous convolution detach empty_like expand gather
    getitem gru index index_select isfinite isinf isnan lift_fresh_copy logical_xor lstm
    nan_to_num native_layer_norm new_empty new_full new_ones new_zeros numpy_T repeat rsub
    scalar_tensor slice split_with_sizes t to type_as unsafe_split view view_as
"""


def _list_names(*groups: str) -> frozenset[str]:
    return frozenset(name for group in groups for name in group.split())


_ALL = (_ARITHMETIC, _SHAPES, _REDUCTIONS)
TORCH = _list_names(*_ALL, _PRODUCTS, _MAKERS, "gather index_select rms_norm")
FUNCTIONAL = _list_names(
    _NETS, "interpolate log_softmax normalize one_hot relu relu6 sigmoid softmax tanh"
)
OPERATOR = _list_names(
    "add and_ eq floordiv ge getitem gt invert le lt matmul mod mul ne neg or_ pow sub truediv"
)
METHODS = _list_names(
    *_ALL,
    "bmm bool contiguous expand float gather index_select int long matmul mm repeat t to type_as"
    " view view_as",
)
ATEN = _list_names(*_ALL, _PRODUCTS, _MAKERS, _NETS, _ONLY_ATEN)

IN_PLACE = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "truediv", "ipow": "pow"}
"""Operators of Python that change their first argument, and what does not."""


def find_callable(kind: str, target: str) -> Callable[..., Any]:
    """What computes a function, method or aten operator of the table.

    Raises:
        DamagedModel: it is not in the table.
    """
    found = None
    if kind == "function":
        found = _find_function(target)
    elif kind == "method" and target in METHODS:
        import torch

        found = getattr(torch.Tensor, target)
    elif kind == "aten":
        found = _find_aten(target)
    if found is None:
        raise DamagedModel(
            f"the captured module asks for the {kind} {target!r}, which is in no table of this"
            " partwise: capture it again with this version"
        )
    return found  # type: ignore[no-any-return]


def _find_function(target: str) -> Any:
    import operator

    import torch
    from torch.nn import functional

    home, _, name = target.rpartition(".")
    homes = {
        "torch": (torch, TORCH),
        "torch.nn.functional": (functional, FUNCTIONAL),
        "operator": (operator, OPERATOR),
    }
    if home not in homes or name not in homes[home][1]:
        return None
    return getattr(homes[home][0], name, None)


def _find_aten(target: str) -> Any:
    """An operator, ``name.overload``; one that changes its arguments is none of the table."""
    import torch

    name, _, overload = target.partition(".")
    if name not in ATEN:
        return None
    packet = getattr(torch.ops.aten, name, None)
    found = getattr(packet, overload, None)
    if found is None or found._schema.is_mutable:
        return None
    return found


def name_function(function: Any) -> tuple[str, str] | None:
    """(kind, target) of a function as a trace has it; None where it is not in the table."""
    import torch

    if isinstance(function, torch._ops.OpOverload):
        namespace, _, name = function._schema.name.partition("::")
        target = f"{name}.{function._overloadname}"
        is_known = namespace == "aten" and _find_aten(target) is not None
        return ("aten", target) if is_known else None
    name = getattr(function, "__name__", "")
    replaced = IN_PLACE.get(name)
    homes = ("operator",) if replaced else ("torch", "torch.nn.functional", "operator")
    for home in homes:
        found = _find_function(f"{home}.{replaced or name}")
        if found is not None and (replaced or found is function):
            return "function", f"{home}.{replaced or name}"
    return None
