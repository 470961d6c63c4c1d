"""The scan as one torch operator with a kernel per device: autograd, compile, export and meta tensors see one node.

    selective_scan(u, delta, A, B, C, D, z, bias, state, W, order, softplus, keep) -> y, last, saved

Sequences are token-major, [b l d]; what each input is, says `native.Inputs`. The gradient is a second operator.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mambino.errors import Error
from mambino.ops.selective_scan import cuda, native, portable
from mambino.ops.selective_scan.inputs import Inputs

_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? bias, Tensor? state,"
    " Tensor? W, Tensor? order"
)
COUNT = len(Inputs._fields)

_library = torch.library.Library("mambino", "DEF")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    f"selective_scan({_INPUTS}, bool softplus, bool keep) -> (Tensor, Tensor, Tensor)"
)
_library.define(  # type: ignore[no-untyped-call]
    f"selective_scan_backward(Tensor grad, Tensor grad_last, {_INPUTS}, Tensor saved, bool softplus) -> Tensor[]"
)


def scan_operator(inputs: Inputs, *, softplus: bool) -> tuple[Tensor, Tensor]:
    """Return y [b l d] and the last state [b d n]; all inputs have one type, float32 or float64."""
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    y, last, _ = torch.ops.mambino.selective_scan(*inputs, softplus, keep)
    return y, last


def path(device: str) -> str:
    """Say how the scan runs on a device; tensors without data are counted as the processor's."""
    form = form_of(device)
    if form is native:
        return f"native {native.instruction_set()}"
    return "triton" if form is cuda else "chunked torch"


def form_of(device: str) -> ModuleType:
    """Return the module that scans on a device; all have `scan`, `scan_backward` and `saved_shape`."""
    if device in {"cpu", "meta"} and not native.missing():
        return native
    return cuda if device == "cuda" and not cuda.missing() else portable


def form_to_run(device: str) -> ModuleType:
    """Return the same as `form_of`, and warn where that is the slow one."""
    form = form_of(device)
    if form is portable:
        reasons = {"cpu": native.missing(), "cuda": cuda.missing()}
        portable.warn_once(device, reasons.get(device, "no kernel was written for this device"))
    return form


def saved_shape(inputs: Inputs) -> tuple[int, ...]:
    """Return the shape of the states that the gradient starts from."""
    found: tuple[int, ...] = form_of(inputs.u.device.type).saved_shape(inputs)
    return found


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    inputs, softplus, keep = Inputs(*arguments[:COUNT]), *arguments[COUNT:]
    form = form_to_run(inputs.u.device.type)
    found: tuple[Tensor, Tensor, Tensor] = form.scan(inputs, softplus=softplus, keep=keep)
    return found


def _backward(grad: Tensor, grad_last: Tensor, *arguments: Any) -> list[Tensor]:
    inputs, saved, softplus = Inputs(*arguments[:COUNT]), *arguments[COUNT:]
    found = form_of(inputs.u.device.type).scan_backward(grad, grad_last, inputs, saved, softplus=softplus)
    return [x for x in found if x is not None]


def _shapes(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    inputs, keep = Inputs(*arguments[:COUNT]), arguments[-1]
    u = inputs.u
    saved = saved_shape(inputs) if keep else (0,)
    wide = torch.promote_types(u.dtype, torch.float32)
    last = u.new_empty((u.shape[0], *inputs.A.shape), dtype=wide)
    return u.new_empty(u.shape), last, u.new_empty(saved, dtype=wide)


def _backward_shapes(grad: Tensor, grad_last: Tensor, *arguments: Any) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in arguments[: COUNT - 1] if x is not None]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.given = [x is not None for x in inputs[:COUNT]]
    ctx.softplus = inputs[COUNT]
    ctx.save_for_backward(*(x for x in inputs[:COUNT] if x is not None), output[2])
    ctx.mark_non_differentiable(output[2])


def _differentiate(ctx: Any, grad: Tensor, grad_last: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *there, saved = ctx.saved_tensors
    left = iter(there)
    inputs = [next(left) if given else None for given in ctx.given]
    found = iter(torch.ops.mambino.selective_scan_backward(grad, grad_last, *inputs, saved, ctx.softplus))
    gradients = [next(found) if given else None for given in ctx.given[:-1]]
    return (*gradients, None, None, None)  # order, softplus, keep


def refuse_second(ctx: Any, *_: Any) -> None:
    """Take the place of the gradient's own gradient."""
    raise Error("the selective scan has no second derivative", hint="differentiate it once only")


def refuse_vmap(*_: Any) -> None:
    """Take the place of a rule for vmap."""
    raise Error("the selective scan cannot be mapped by vmap", hint="put the mapped axis into the batch")


for _device in ("CPU", "CUDA", "MPS", "XPU"):
    _library.impl("selective_scan", _forward, _device)  # type: ignore[no-untyped-call]
    _library.impl("selective_scan_backward", _backward, _device)  # type: ignore[no-untyped-call]
torch.library.register_fake("mambino::selective_scan", _shapes, lib=_library)
torch.library.register_fake("mambino::selective_scan_backward", _backward_shapes, lib=_library)
torch.library.register_autograd("mambino::selective_scan", _differentiate, setup_context=_remember, lib=_library)
torch.library.register_autograd("mambino::selective_scan_backward", refuse_second, lib=_library)
for _name in ("selective_scan", "selective_scan_backward"):
    torch.library.register_vmap(f"mambino::{_name}", refuse_vmap, lib=_library)
