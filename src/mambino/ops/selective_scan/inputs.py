"""What a scan is made of, and how it may lie."""

from typing import NamedTuple

import torch
from torch import Tensor


class Inputs(NamedTuple):
    """What a scan is made of; all of one type, float32 or float64.

    u and z are [b l d]; delta is [b l d], or [b l r] with W [d r]; B and C are [b l g n] or [d n]; A is [d n];
    D and bias are [d]; state is [b d n]; order is [l], int32: the token of each step. Channels lie side by side.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    bias: Tensor | None
    state: Tensor | None
    W: Tensor | None
    order: Tensor | None


def rowwise(x: Tensor) -> Tensor:
    """Return x with its last axis in one piece; tokens may lie at any distance."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def ordered(inputs: Inputs) -> Inputs:
    """Put the tokens of all sequences into the order of the scan, for forms that read them as they lie."""
    if inputs.order is None:
        return inputs
    names = ("u", "delta", "B", "C", "z")
    there = {name: x for name in names if (x := getattr(inputs, name)) is not None and x.dim() > 2}
    return inputs._replace(**{name: taken(x, inputs.order) for name, x in there.items()})


def taken(x: Tensor, order: Tensor | None) -> Tensor:
    """Return the tokens of x in an order."""
    return x if order is None else x.index_select(1, order.long())


def put_back(x: Tensor, order: Tensor | None) -> Tensor:
    """Return to their places the tokens that were taken in an order."""
    return x if order is None else torch.empty_like(x).index_copy_(1, order.long(), x)
