"""The GPU kernels of the selective scan equal its definition, in values and in all gradients.

Where there is no GPU they run in Triton's interpreter, which `tests/conftest.py` asks for.
"""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from mambino.ops.selective_scan import cuda, portable
from mambino.ops.selective_scan.inputs import Inputs
from mambino.ops.selective_scan.reference import selective_scan_reference
from tests.close import assert_close

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"

pytest.importorskip("triton", reason="Triton comes with CUDA builds of torch; `pip install triton` adds it")
from mambino.ops.selective_scan import triton as kernels  # noqa: E402

# Compiles each kernel as it is called for one kind of GPU, which takes none.
COMPILE = """
import sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from mambino.ops.selective_scan import triton as kernels

TYPES = {torch.float64: "*fp64", torch.float32: "*fp32", torch.bfloat16: "*bf16"}

def compile(kernel, *args, grid, warmup, num_warps, **kwargs):
    values = dict(zip(kernel.arg_names, args)) | kwargs
    signature, constants = {}, {}
    for place, parameter in enumerate(kernel.params):
        value = values[parameter.name]
        one = type(value) is int and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or one:
            signature[parameter.name], constants[(place,)] = "constexpr", value
        else:
            signature[parameter.name] = "i32" if isinstance(value, int) else TYPES[value.dtype]
    source = ASTSource(kernel, signature, constants, {})
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})
    print(kernel.__name__)

triton.JITFunction.run = compile
length, channels, size = map(int, sys.argv[1:4])
dtype, optional = getattr(torch, sys.argv[4]), sys.argv[5] == "all"
u, A = torch.ones(1, length, channels, dtype=dtype), torch.ones(channels, size)
B = torch.ones(1, length, 1, size, dtype=dtype)
C, vector, state = (B, u[0, 0], A[None]) if optional else (A, None, None)
xs = (u, u, A, B, C, vector, u if optional else None, vector, state)
y, last, saved = kernels.scan(*xs, softplus=optional, keep=True)
kernels.scan_backward(y, last, *xs, saved, softplus=optional)
"""

pytestmark = [pytest.mark.gpu] if GPU else []
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "bias", "state")
OPTIONAL = ("D", "z", "bias", "state")


def inputs(shape, groups=(1, 1), *, seed=0, without=(), dtype=torch.float32):
    """Return all inputs by name, rounded to `dtype`; 0 groups stand for a constant B or C."""
    batch, length, channels, size = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*of):
        return torch.randn(of, generator=generator, dtype=torch.float64)

    shapes = {
        **dict.fromkeys(("u", "delta", "z"), (batch, length, channels)),
        **dict.fromkeys(("D", "bias"), (channels,)),
        **{name: (batch, length, g, size) if g else (channels, size) for name, g in zip("BC", groups, strict=True)},
        "state": (batch, channels, size),
        "A": (channels, size),
    }
    xs = {name: normal(*shapes[name]).to(dtype) for name in NAMES}
    xs["A"] = (-xs["A"].double().abs() - 0.1).to(torch.promote_types(dtype, torch.float32))
    return {name: None if name in without else x.to(DEVICE) for name, x in xs.items()}


def definition(xs, *, softplus=True):
    """Return y and the last state, from the definition and the formulas around it."""
    u, delta, A, B, C, D, z, bias, state = (xs[name] for name in NAMES)
    step = delta if bias is None else delta + bias
    step = functional.softplus(step) if softplus else step
    B, C = (x if x.dim() == 2 else x.permute(0, 2, 3, 1) for x in (B, C))
    y, last = selective_scan_reference(u.mT, step.mT, A, B, C, state=state)
    y = y.mT if D is None else y.mT + D * u
    return y if z is None else y * functional.silu(z), last


def assert_same(actual, expected):
    """Compare relative to the largest entry."""
    assert actual.shape == expected.shape
    scale = expected.abs().max() + 1e-30
    assert_close(actual / scale, expected / scale)


def assert_defined(xs, *, softplus=True, seed=1):
    """Compare values and all gradients with the definition in float64."""
    exact = {name: None if x is None else x.double().requires_grad_() for name, x in xs.items()}
    leaves = [x for x in exact.values() if x is not None]
    wanted = definition(exact, softplus=softplus)
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(DEVICE) for x in wanted]
    weights[0] = weights[0].to(xs["u"].dtype)
    gradients = iter(torch.autograd.grad(sum((x * w).sum() for x, w in zip(wanted, weights, strict=True)), leaves))

    y, last, saved = kernels.scan(*xs.values(), softplus=softplus, keep=True)
    found = kernels.scan_backward(weights[0], weights[1].to(last.dtype), *xs.values(), saved, softplus=softplus)

    assert y.is_contiguous()
    assert y.dtype == xs["u"].dtype
    assert last.dtype == saved.dtype == torch.promote_types(y.dtype, torch.float32)
    for one, other in zip((y, last), wanted, strict=True):
        assert_same(one, other.detach())
    for x, gradient in zip(xs.values(), found, strict=True):
        if x is None:
            assert gradient is None
        else:
            assert gradient.dtype == x.dtype
            assert_same(gradient, next(gradients))


# Lengths of one and of two chunks, sizes that are padded, channels that fill one block and part of the next.
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((1, 1, 1, 1), (1, 1)),
        ((2, 9, 5, 3), (1, 1)),
        ((1, 34, 3, 2), (1, 1)),
        ((1, 5, 6, 2), (2, 3)),
        ((1, 10, 3, 4), (0, 0)),
        ((1, 9, 2, 16), (0, 1)),
        ((1, 9, 4, 3), (2, 0)),
        ((1, 5, 35, 16), (1, 1)),
        ((1, 6, 2, 64), (1, 2)),
    ],
)
def test_it_equals_the_definition(shape, groups):
    assert_defined(inputs(shape, groups))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_type_is_computed_in_float32_at_least(dtype):
    assert_defined(inputs((1, 11, 3, 4), dtype=dtype))


@pytest.mark.parametrize("without", [*((name,) for name in OPTIONAL), OPTIONAL])
def test_whatever_is_optional_may_be_missing(without):
    assert_defined(inputs((1, 5, 3, 2), without=without))


def test_step_sizes_may_be_given_as_they_are():
    xs = inputs((1, 9, 3, 2), without=("bias",))
    xs["delta"] = xs["delta"].abs()
    assert_defined(xs, softplus=False)


@pytest.mark.parametrize("groups", [(1, 1), (0, 1)])
def test_a_sequence_cut_into_segments_gives_the_same(groups, monkeypatch):
    monkeypatch.setattr(kernels, "SHORTEST", 16)
    monkeypatch.setattr(kernels, "WORTHWHILE", 2)
    xs = inputs((1, 33, 2, 3), groups)
    assert kernels.Launch.of(xs["u"], xs["A"], xs["B"], xs["C"], states=512).segments == 2
    assert_defined(xs)


def test_inputs_may_be_views_of_wider_tensors():
    xs = inputs((2, 7, 4, 2))
    wide = torch.cat([xs["u"], xs["z"]], -1)
    xs["u"], xs["z"] = wide.split(4, -1)
    couplings = torch.cat([xs["B"], xs["C"]], -1)
    xs["B"], xs["C"] = couplings.split(2, -1)
    xs["delta"] = xs["delta"].transpose(0, 1).contiguous().transpose(0, 1)
    xs["state"] = xs["state"].mT.contiguous().mT
    assert_defined(xs)


def test_a_gradient_may_be_one_number_expanded():
    xs = inputs((1, 5, 3, 2), without=OPTIONAL)
    y, last, saved = kernels.scan(*xs.values(), softplus=True, keep=True)
    ones = torch.ones((), device=DEVICE)
    found, wanted = (
        kernels.scan_backward(grad, torch.zeros_like(last), *xs.values(), saved, softplus=True)
        for grad in (ones.expand(y.shape), torch.ones_like(y))
    )
    for one, other in zip(found[:5], wanted[:5], strict=True):
        assert torch.equal(one, other)


def test_scanning_in_two_parts_is_scanning_at_once():
    xs = inputs((1, 13, 3, 2))
    y, end, nothing = kernels.scan(*xs.values(), softplus=True, keep=False)
    sequences = ("u", "delta", "B", "C", "z")
    head, tail = ({**xs, **{name: xs[name][:, part] for name in sequences}} for part in (slice(6), slice(6, None)))
    first, tail["state"], _ = kernels.scan(*head.values(), softplus=True, keep=False)
    second, end_of_tail, _ = kernels.scan(*tail.values(), softplus=True, keep=False)
    assert nothing.numel() == 0
    assert_close(torch.cat([first, second], 1), y)
    assert_close(end_of_tail, end)


@pytest.mark.parametrize("step", [-12.0, 1e4])
def test_no_step_size_overflows_or_loses_its_digits(step):
    xs = inputs((1, 5, 2, 3), without=("bias",))
    xs["delta"] = xs["delta"] + step
    assert_defined(xs)


def test_gradients_repeat():
    xs = inputs((1, 3, 35, 16), without=OPTIONAL)
    y, last, saved = kernels.scan(*xs.values(), softplus=True, keep=True)
    found = [kernels.scan_backward(y, last, *xs.values(), saved, softplus=True) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*(x[:5] for x in found), strict=True))


@pytest.mark.parametrize(
    ("shape", "groups", "states"), [((2, 16384, 256, 16), (1, 4), 512), ((1, 70001, 12, 3), (3, 0), 256)]
)
def test_few_channels_are_made_up_for_by_segments(shape, groups, states):
    batch, length, channels, size = shape
    u, A = torch.empty(batch, length, channels, device="meta"), torch.empty(channels, size, device="meta")
    B, C = (torch.empty((batch, length, g, size) if g else A.shape, device="meta") for g in groups)
    launch = kernels.Launch.of(u, A, B, C, states=states)
    blocks, segments, samples = launch.grid
    assert blocks * launch.block >= channels
    assert segments * launch.chunks * kernels.CHUNK >= length > (segments - 1) * launch.chunks * kernels.CHUNK
    assert kernels.PROGRAMS // 2 <= blocks * segments * samples <= 2 * kernels.PROGRAMS


# The interpreter runs much that does not compile.
@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    ["300 40 16 bfloat16 all", "3 40 16 float32 none", "3 4 3 float64 all", "1 1 1 float32 all", "40 2 64 float32 all"],
)
def test_the_kernels_compile_for_a_gpu(case, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    compiled = subprocess.run(
        [sys.executable, "-c", COMPILE, *case.split()],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stderr
    assert {"forward_kernel", "backward_kernel"} <= set(compiled.stdout.split())


@pytest.mark.parametrize("ordered", [False, True])
def test_the_operator_hands_over_what_the_kernels_leave_to_torch(ordered):
    generator = torch.Generator().manual_seed(0)

    def normal(*of):
        return torch.randn(of, generator=generator, dtype=torch.float64).to(DEVICE)

    order = torch.randperm(50, generator=generator).int().to(DEVICE) if ordered else None
    A, B, C = -normal(12, 4).abs() - 0.1, normal(2, 50, 2, 4), normal(2, 50, 2, 4)
    wide, rest = normal(2, 50, 24), (normal(12), normal(12), normal(2, 12, 4), normal(12, 3))
    D, bias, state, W = rest
    given = Inputs(wide[..., :12], normal(2, 50, 3), A, B, C, D, wide[..., 12:], bias, state, W, order)

    found, expected = (form.scan(given, softplus=True, keep=True) for form in (cuda, portable))
    cotangents = normal(2, 50, 12), normal(2, 12, 4)
    back, wanted = (
        form.scan_backward(*cotangents, given, made[2], softplus=True)
        for form, made in ((cuda, found), (portable, expected))
    )

    for mine, theirs in zip((*found[:2], *back), (*expected[:2], *wanted), strict=True):
        assert_close(mine, theirs)
