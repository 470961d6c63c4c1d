"""The scan and the causal convolution in C++ (native/), called through ctypes."""

import ctypes
import math
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mambino.errors import Error, ShapeError
from mambino.ops.selective_scan.inputs import Inputs, rowwise

CHUNK = 32
"""Steps between two states that the gradient starts from; as MAMBINO_CHUNK in native/include/mambino/scan.h."""

_SUFFIXES = {"win32": ".dll", "darwin": ".so"}
_ADVICE = "install a C++ compiler and mambino again, or a wheel made for this platform"


class Rows(ctypes.Structure):
    """Where the tokens of an activation lie: `mambino_rows`."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("token", ctypes.c_int64),
        ("group", ctypes.c_int64),
    )


def fields(kind: type, names: str) -> list[tuple[str, type]]:
    """Return members of a structure that are of one type."""
    return [(name, kind) for name in names.split()]


class _Scan(ctypes.Structure):
    _fields_ = (
        *fields(ctypes.c_int64, "batch length channels states groups rank"),
        *fields(ctypes.c_int32, "softplus accumulate constant_B constant_C"),
        *fields(Rows, "u delta B C z y"),
        *fields(ctypes.c_void_p, "A W D bias state order last saved"),
    )


class _ScanGradients(ctypes.Structure):
    _fields_ = (
        ("y", Rows),
        ("last", ctypes.c_void_p),
        *fields(Rows, "u delta B C z"),
        *fields(ctypes.c_void_p, "A W D bias state"),
    )


def missing() -> str:
    """Say why the library cannot be used here; empty where it can."""
    return _load()[1]


def instruction_set() -> str:
    """Return the name of the instruction set in use: "avx512", "avx2", "neon" or "plain"."""
    return str(_library().mambino_isa().decode())


def instruction_sets() -> tuple[str, ...]:
    """Return those that the library has and this processor runs, best first."""
    return tuple(_library().mambino_isas().decode().split())


def use_instruction_set(name: str) -> None:
    """Take another instruction set than the best one, for tests and comparisons.

    Raises:
        Error: the library or this processor does not have it.
    """
    if _library().mambino_set_isa(name.encode()):
        raise Error(
            f"the instruction set {name!r} is not to be had here", hint=f"choose from {', '.join(instruction_sets())}"
        )


def issue_rate() -> float:
    """Measure how many vector multiply-adds of float32 one thread issues (1/s)."""
    return float(_library().mambino_issue_rate(4))


def scan(inputs: Inputs, *, softplus: bool, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return y [b l d], the last state [b d n], and the states that the gradient starts from (if `keep`)."""
    u = inputs.u
    y, last = torch.empty_like(u, memory_format=torch.contiguous_format), u.new_empty(u.shape[0], *inputs.A.shape)
    saved = u.new_empty(saved_shape(inputs) if keep else (0,))
    scan_into(y, last, saved if keep else None, inputs, softplus=softplus, accumulate=False)
    return y, last, saved


def scan_into(
    y: Tensor, last: Tensor | None, saved: Tensor | None, inputs: Inputs, *, softplus: bool, accumulate: bool
) -> None:
    """Write what `scan` returns, or add to y."""
    inputs = _side_by_side(inputs)  # a call holds addresses alone: copies must live as long as it
    call = _scan_call(inputs, y, last, saved, softplus=softplus)
    call.accumulate = accumulate
    _check(_library().mambino_scan_forward(ctypes.byref(call), y.element_size(), torch.get_num_threads()))


def scan_paths_into(
    y: Tensor,
    saved: Tensor | None,
    first: Inputs,
    coefficients: Tensor,
    stacked: Mapping[str, Tensor],
) -> None:
    """Add up in y the scans of the same tokens along several paths, with softplus, in one call.

    Args:
        y: goes out.
        saved: one entry a path: the states that the gradient starts from.
        first: the inputs of the first path; its delta, B and C are parts of `coefficients`, and its parameters entries
            of `stacked`.
        coefficients: those of all paths, one after the other in each token.
        stacked: A, D, bias, W and order of all paths, each in one piece.
    """
    count = len(stacked["A"])
    calls = (_Scan * count)()
    calls[0] = _scan_call(first, y, None, None if saved is None else saved[0], softplus=True)
    size, apart = y.element_size(), coefficients.shape[-1] // count
    steps = {name: x[0].numel() * x.element_size() for name, x in stacked.items()}
    if saved is not None:
        steps["saved"] = saved[0].numel() * size
    for k in range(1, count):
        calls[k] = calls[0]
        calls[k].accumulate = 1
        for rows_ in (calls[k].delta, calls[k].B, calls[k].C):
            rows_.data += k * apart * size
        for name, step in steps.items():
            setattr(calls[k], name, getattr(calls[0], name) + k * step)
    _check(_library().mambino_scans_forward(calls, count, size, torch.get_num_threads()))


def scan_backward(
    grad: Tensor, grad_last: Tensor, inputs: Inputs, saved: Tensor, *, softplus: bool
) -> tuple[Tensor | None, ...]:
    """Return the gradients of all inputs but the order; None where there is no input."""
    room = [None if x is None else torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs[:-1]]
    scan_backward_into(room, grad, grad_last, inputs, saved, softplus=softplus, accumulate=False)
    return tuple(room)


def scan_backward_into(
    room: Sequence[Tensor | None],
    grad: Tensor,
    grad_last: Tensor | None,
    inputs: Inputs,
    saved: Tensor,
    *,
    softplus: bool,
    accumulate: bool,
) -> None:
    """Write what `scan_backward` returns, or add it to the gradients of u, delta, z, B and C."""
    inputs, grad = _side_by_side(inputs), rowwise(grad)
    grad_last = None if grad_last is None else grad_last.contiguous()
    u, delta, A, B, C, D, z, bias, state, W = room
    call = _scan_call(inputs, None, None, saved, softplus=softplus)
    call.accumulate = accumulate
    out = _ScanGradients(
        y=rows(grad),
        last=pointer(grad_last),
        u=rows(u),
        delta=rows(delta),
        B=_coupling(B),
        C=_coupling(C),
        z=rows(z),
        A=pointer(A),
        W=pointer(W),
        D=pointer(D),
        bias=pointer(bias),
        state=pointer(state),
    )
    call.y = out.y  # nothing is written to it
    size = inputs.u.element_size()
    _check(_library().mambino_scan_backward(ctypes.byref(call), ctypes.byref(out), size, torch.get_num_threads()))


def saved_shape(inputs: Inputs) -> tuple[int, ...]:
    """Return the shape of the states that the gradient starts from: one before each chunk."""
    (batch, length, channels), size = inputs.u.shape, inputs.A.shape[1]
    return (batch, math.ceil(length / CHUNK), size, channels)


def without_gradient(*inputs: Tensor | None) -> bool:
    """Tell whether kernels that know no way back may take these inputs: nothing is learnt, and all are of one type."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or missing():
        return False
    kinds = {(x.device.type, x.dtype) for x in inputs if x is not None}
    return kinds in ({("cpu", torch.float32)}, {("cpu", torch.float64)})


def _scan_call(inputs: Inputs, y: Tensor | None, last: Tensor | None, saved: Tensor | None, *, softplus: bool) -> _Scan:
    batch, length, channels = inputs.u.shape
    groups = [m.shape[2] for m in (inputs.B, inputs.C) if m.dim() == 4]
    return _Scan(
        batch=batch,
        length=length,
        channels=channels,
        states=inputs.A.shape[1],
        groups=max(groups, default=1),
        rank=0 if inputs.W is None else inputs.W.shape[1],
        softplus=softplus,
        constant_B=inputs.B.dim() == 2,
        constant_C=inputs.C.dim() == 2,
        u=rows(inputs.u),
        delta=rows(inputs.delta),
        B=_coupling(inputs.B),
        C=_coupling(inputs.C),
        z=rows(inputs.z),
        y=rows(y),
        A=pointer(inputs.A),
        W=pointer(inputs.W),
        D=pointer(inputs.D),
        bias=pointer(inputs.bias),
        state=pointer(inputs.state),
        order=pointer(inputs.order),
        last=pointer(last),
        saved=pointer(saved),
    )


def _side_by_side(inputs: Inputs) -> Inputs:
    """Copy what does not lie as the library reads it: channels of a token side by side, parameters in one piece."""
    found = {name: rowwise(x) for name in ("u", "delta", "z") if (x := getattr(inputs, name)) is not None}
    couplings = {
        name: m.contiguous() if m.dim() == 2 or m.stride(-1) != 1 else m
        for name in ("B", "C")
        for m in [getattr(inputs, name)]
    }
    whole = ("A", "D", "bias", "state", "W", "order")
    parameters = {name: x.contiguous() for name in whole if (x := getattr(inputs, name)) is not None}
    return inputs._replace(**found, **couplings, **parameters)


def rows(x: Tensor | None) -> Rows:
    """Say where the tokens of x [b l d] lie; x must live as long as the call."""
    return Rows() if x is None else Rows(x.data_ptr(), x.stride(0), x.stride(1), 0)


def _coupling(m: Tensor | None) -> Rows:
    if m is None:
        return Rows()
    return Rows(m.data_ptr(), 0, 0, 0) if m.dim() == 2 else Rows(m.data_ptr(), *m.stride()[:3])


def pointer(x: Tensor | None) -> int | None:
    """Return the address of the first number."""
    return None if x is None else x.data_ptr()


def call(function: str, *structures: ctypes.Structure, size: int) -> None:
    """Call a function of the library that takes these structures; numbers have `size` bytes."""
    _check(getattr(_library(), function)(*map(ctypes.byref, structures), size, torch.get_num_threads()))


def _check(status: int) -> None:
    if status:
        what = _library().mambino_message().decode()
        raise MemoryError(what) if status == 2 else ShapeError(f"the native scan was called wrongly: {what}")


def _library() -> ctypes.CDLL:
    library, why = _load()
    if library is None:
        raise Error(why, hint=_ADVICE)
    return library


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """Open the library once; return it, or why that is not possible."""
    name = f"mambino_native{_SUFFIXES.get(sys.platform, '.so')}"
    found = next((path for folder in _folders() if (path := folder / name).is_file()), None)
    if found is None:
        return None, f"this installation has no {name}: there was no C++ compiler when it was made"
    try:
        library = ctypes.CDLL(str(found))
    except OSError as error:
        return None, f"{name} cannot be loaded: {error}"
    for function in ("isa", "isas", "message"):
        getattr(library, f"mambino_{function}").restype = ctypes.c_char_p
    library.mambino_issue_rate.restype = ctypes.c_double
    library.mambino_use_team.argtypes, library.mambino_use_team.restype = (ctypes.c_void_p,), None
    library.mambino_use_team(_team())
    forced = os.environ.get("MAMBINO_ISA", "")
    if forced and library.mambino_set_isa(forced.encode()):
        known = library.mambino_isas().decode()
        raise Error(f"MAMBINO_ISA is {forced}, but this processor and build have {known}", hint="choose one of these")
    return library, ""


def _team() -> int | None:
    """Return the address by which torch's own threads are called, where its OpenMP shows it.

    They spin for milliseconds after each of torch's operators; other threads would share the processors with them.
    """
    if sys.platform != "linux":
        return None
    parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    return None if parallel is None else ctypes.cast(parallel, ctypes.c_void_p).value


def _folders() -> Sequence[Path]:
    """Return where the library may lie: beside the package, or, installed from a checkout, in site-packages."""
    return [Path(__file__).parents[2], *(Path(entry) / "mambino" for entry in sys.path if entry)]
