"""Multiply-accumulates of a forward, counted by ``torch.utils.flop_counter`` and completed where it doesn't look.

Rules: what is counted are products of matrices, convolutions, attention and recurrent layers, with one
multiply-accumulate for two of torch's floating point operations; additions of biases, normalisation, activations,
pooling and embeddings are none. The model runs as separate operations meanwhile: kernels that fuse a whole attention
layer show the counter nothing. What is not made of torch's own operations (Triton, quantized and other foreign
kernels, ``nn.Bilinear``, FFTs, products of sparse matrices) is not seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from kdhooks.torch.teacher_speed import attention_by_parts

Shape = Sequence[int]


def count_macs(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """The multiply-accumulates of one forward.

    Args:
        model: in evaluation mode; what of it is compiled runs as it was written.
        args: positional arguments, with as many rows as shall be counted.
        kwargs: keyword arguments.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    with torch.no_grad(), attention_by_parts(), torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        # the counter's own hooks: they only follow which module is under way
        warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks")
        with counter:
            model(*args, **kwargs)
    return int(counter.get_total_flops()) // 2


def _attention(query: Shape, key: Shape, value: Shape, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Query [N, H, T, E] times key [N, H, S, E], and the weights times value [N, H, S, F]; masked positions count."""
    *batch, targets, width = query
    return 2 * prod(batch) * targets * key[-2] * (width + value[-1])


def _vectors(self: Shape, *others: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """A matrix times a vector, or two vectors: each number of the first takes part once."""
    return 2 * prod(self)


def _added_vectors(bias: Shape, matrix: Shape, *others: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * prod(matrix)


def _matrices(bias: Shape, first: Shape, second: Shape, *others: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """[..., M, K] times [..., K, N], and something added."""
    return 2 * prod(first) * second[-1]


def _steps_of(x: Shape) -> int:
    """Rows times steps of a sequence [T, N, F], or of a packed one [steps, F]."""
    return prod(x[:-1])


def _one_recurrent_layer(x: Shape, *others: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """An LSTM of oneDNN: weights of the input and of the state, each used once a step."""
    return int(2 * _steps_of(x) * (prod(others[0]) + prod(others[1])))


def _recurrent_layers(x: Shape, weights: Sequence[Shape], *others: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Recurrent layers of cuDNN and MIOpen: every matrix is used once a step, biases are vectors."""
    return 2 * _steps_of(x) * sum(prod(weight) for weight in weights if len(weight) == 2)


def _formulas() -> dict[Any, Any]:
    by_name = {
        "_scaled_dot_product_flash_attention_for_cpu": _attention,
        "_scaled_dot_product_fused_attention_overrideable": _attention,
        "_scaled_dot_product_attention_math_for_mps": _attention,
        "mv": _vectors,
        "dot": _vectors,
        "vdot": _vectors,
        "addmv": _added_vectors,
        "addbmm": _matrices,
        "_addmm_activation": _matrices,
        "mkldnn_rnn_layer": _one_recurrent_layer,
        "_cudnn_rnn": _recurrent_layers,
        "miopen_rnn": _recurrent_layers,
    }
    return {
        getattr(torch.ops.aten, name): formula for name, formula in by_name.items() if hasattr(torch.ops.aten, name)
    }


_FORMULAS = _formulas()
