"""A linear layer whose gradient is a product that processors like."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def linear(
    x: Float[Tensor, "*b i"],
    weight: Float[Tensor, "o i"],
    bias: Float[Tensor, " o"] | None = None,
    *,
    out: Float[Tensor, "*b o"] | None = None,
) -> Float[Tensor, "*b o"]:
    """Return x times the weight, as `torch.nn.functional.linear` does.

    The gradient of the weight is a sum over all tokens of a product of few channels with few. MKL takes up to eight
    times as long for it with more rows than columns; here it always has fewer.

    Args:
        x, weight, bias: of the product.
        out: where the result goes, if nothing is learnt; x is [b l i] then.
    """
    if out is not None:
        return _into(out, x, weight, bias)
    if not _turned(x, weight):
        return functional.linear(x, weight, bias)
    if torch.is_autocast_enabled(x.device.type):
        kind = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
    result: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return result


def _into(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return out.copy_(functional.linear(x, weight, bias))
    for to, rows in zip(out, x, strict=True):
        if bias is None:
            torch.mm(rows, weight.t(), out=to)
        else:
            torch.addmm(bias, rows, weight.t(), out=to)
    return out


def _turned(x: Tensor, weight: Tensor) -> bool:
    wanted = torch.is_grad_enabled() and weight.requires_grad and not torch.compiler.is_compiling()
    return wanted and x.device.type == "cpu" and weight.shape[0] > weight.shape[1]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        with torch.autocast("cpu", enabled=False):
            return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        into_x = grad @ weight if ctx.needs_input_grad[0] else None
        into_weight = (x.flatten(0, -2).t() @ rows).t()
        return into_x, into_weight, rows.sum(0) if ctx.has_bias else None
