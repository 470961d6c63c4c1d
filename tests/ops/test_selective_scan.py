"""Every form of the selective scan equals its definition, in values and gradients, at every step size and cut."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mambino.errors import Error, ShapeError
from mambino.ops.selective_scan import scan_tokens, selective_scan
from mambino.ops.selective_scan.chunked import cut_of
from mambino.ops.selective_scan.pieces import run
from mambino.ops.selective_scan.reference import selective_scan_reference
from tests.close import assert_close

FORMS = ("constant", "shared", "grouped")
pytestmark = pytest.mark.usefixtures("path")


def inputs(shape, seed=0, *, forms=("shared", "shared"), step=1.0, dtype=torch.float64, groups=2):
    """Return u, delta, A, B, C and a first state; `step` is the mean step size."""
    batch, channels, size, length = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*of):
        return torch.randn(*of, generator=generator, dtype=torch.float64).to(dtype)

    couplings = {
        "constant": lambda: normal(channels, size),
        "shared": lambda: normal(batch, size, length),
        "grouped": lambda: normal(batch, groups, size, length),
    }
    delta = step * functional.softplus(normal(batch, channels, length))
    rates = -(4 * torch.rand(channels, size, generator=generator, dtype=torch.float64) + 0.1).to(dtype)
    values = [normal(batch, channels, length), delta, rates, *(couplings[form]() for form in forms)]
    return [x.requires_grad_() for x in (*values, normal(batch, channels, size))]


def results(scan, xs, seed=1):
    """Return y, the last state, and the gradients of all inputs for random cotangents."""
    y, last = scan(*xs[:5], state=xs[5])
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in (y, last)]
    return [y, last, *torch.autograd.grad((y * weights[0]).sum() + (last * weights[1]).sum(), xs)]


def assert_same(actual, expected, tolerance=1e-10):
    """Compare relative to the largest entry of each tensor."""
    names = ("y", "last", "u", "delta", "A", "B", "C", "state")
    for name, one, other in zip(names, actual, expected, strict=True):
        scale = float(other.detach().abs().max()) + 1e-30
        bound = {"rtol": 0, "atol": tolerance * scale}
        torch.testing.assert_close(one, other, **bound, msg=lambda text, n=name: f"{n}: {text}")


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.sampled_from([1, 2, 6, 8]),
    size=st.sampled_from([1, 2, 3, 16]),
    length=st.integers(1, 150),
    forms=st.tuples(st.sampled_from(FORMS), st.sampled_from(FORMS)),
    step=st.sampled_from([1e-4, 0.1, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_it_equals_the_definition(batch, channels, size, length, forms, step, seed):
    assume(channels % 2 == 0 or "grouped" not in forms)
    xs = inputs((batch, channels, size, length), seed, forms=forms, step=step)
    assert_same(results(selective_scan, xs), results(selective_scan_reference, xs))


# Lengths that are cut into one and into several segments, with and without padding, several tiles of channels.
@pytest.mark.parametrize("shape", [(1, 40, 16, 2048), (2, 6, 4, 4103), (1, 72, 16, 600), (9, 2, 3, 17)])
def test_it_equals_the_definition_across_pieces_and_tiles(shape):
    xs = inputs(shape)
    assert_same(results(selective_scan, xs), results(selective_scan_reference, xs))


@pytest.mark.parametrize("step", [1e-5, 1e-2, 0.1, 1.0, 100.0, 1e4])
def test_no_step_size_overflows_in_float32(step):
    exact = inputs((1, 4, 16, 700), step=step)
    single = [x.detach().float().requires_grad_() for x in exact]
    found = [x.double() for x in results(selective_scan, single)]
    assert_same(found, results(selective_scan_reference, exact), tolerance=2e-5)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(2, 60), cut=st.integers(1, 59), seed=st.integers(0, 9))
@pytest.mark.parametrize("scan", [selective_scan_reference, selective_scan])
def test_scanning_in_two_parts_is_scanning_at_once(scan, length, cut, seed):
    assume(cut < length)
    with torch.no_grad():
        u, delta, A, B, C, _ = inputs((2, 3, 4, length), seed)
        whole, end = scan(u, delta, A, B, C)
        head, middle = scan(u[..., :cut], delta[..., :cut], A, B[..., :cut], C[..., :cut])
        tail, end_of_tail = scan(u[..., cut:], delta[..., cut:], A, B[..., cut:], C[..., cut:], state=middle)
    assert_close(torch.cat([head, tail], -1), whole)
    assert_close(end_of_tail, end)


def test_bias_softplus_passage_and_gate_follow_the_formula():
    u, delta, A, B, C, state = inputs((2, 4, 3, 33))
    D, bias = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    z = torch.randn(2, 4, 33, dtype=torch.float64, requires_grad=True)

    y, last = selective_scan(u, delta, A, B, C, D=D, z=z, delta_bias=bias, softplus=True, state=state)

    step = functional.softplus(delta + bias[:, None])
    plain, end = selective_scan_reference(u, step, A, B, C, state=state)
    expected = (plain + D[:, None] * u) * functional.silu(z)
    assert_close(y, expected)
    assert_close(last, end)
    leaves = [u, delta, A, B, C, D, bias, z, state]
    for mine, theirs in zip(
        torch.autograd.grad(y.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
    ):
        assert_close(mine, theirs)


def test_gradients_are_those_of_finite_differences():
    xs = inputs((1, 2, 2, 20), step=0.3)
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x[:5], state=x[5]), xs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    with torch.no_grad():
        xs = [x.to(dtype) for x in inputs((1, 3, 4, 90), step=0.1)]
        y, last = selective_scan(*xs[:5], state=xs[5])
        wide, end = selective_scan_reference(*(x.float() for x in xs[:5]), state=xs[5].float())
    assert y.dtype == dtype
    assert last.dtype == torch.float32
    assert_close(y, wide.to(dtype))
    assert_close(last, end)


def test_results_are_the_same_bits_again_and_again():
    xs = inputs((1, 72, 16, 4500), dtype=torch.float32)
    before = torch.get_num_threads()
    found = {}
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found[threads] = results(selective_scan, xs)
            again = results(selective_scan, xs)
            assert all(torch.equal(x, y) for x, y in zip(found[threads], again, strict=True))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for (
        other
    ) in found.values():  # what goes forward does not depend on threads; sums over channels may, in the last bit
        assert all(torch.equal(x, y) for x, y in zip(found[1][:2], other[:2], strict=True))
        assert_same(other, found[1], tolerance=1e-6)


def test_an_error_in_a_thread_reaches_the_caller():
    def fail(item):
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        run(fail, [0, 1])


def test_it_runs_in_inference_mode():
    xs = inputs((1, 16, 16, 9000), dtype=torch.float32)
    with torch.inference_mode():
        y, _ = selective_scan(*xs[:5])
    with torch.no_grad():
        assert torch.equal(y, selective_scan(*xs[:5])[0])


def test_a_long_silence_leaves_no_denormal_state():
    # A state that decays through denormal numbers is computed at a twenty-fifth of the speed.
    xs = inputs((1, 2, 4, 3000), dtype=torch.float32)
    with torch.no_grad():
        xs[0][..., 10:] = 0
        y, last = selective_scan(*xs[:5])
    assert bool(((last == 0) | (last.abs() >= torch.finfo(torch.float32).tiny)).all())
    assert float(y[..., 2900:].abs().max()) < 1e-20


def test_the_operator_is_sound():
    u, delta, A, B, C, state = inputs((2, 4, 3, 70))
    tokens = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in (u, delta, u, u)]
    couplings = [x.detach().permute(0, 2, 1)[:, :, None].contiguous().requires_grad_() for x in (B, C)]
    D, bias = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    arguments = (*tokens[:2], A, *couplings, D, tokens[2], bias, state, None, None, True, True)
    torch.library.opcheck(torch.ops.mambino.selective_scan.default, arguments)


def test_tensors_without_data_give_the_shapes_alone():
    u = torch.empty(2, 8, 5000, device="meta", requires_grad=True)
    A, B = torch.empty(8, 16, device="meta"), torch.empty(2, 16, 5000, device="meta")
    y, last = selective_scan(u, u, A, B, B)
    y.sum().backward()
    assert y.shape == u.shape == u.grad.shape
    assert last.shape == (2, 8, 16)


def test_the_cut_follows_from_the_shapes_and_covers_the_sequence():
    with torch.device("meta"):
        cut = cut_of(torch.empty(2, 12, 70001), torch.empty(12, 16), torch.empty(2, 3, 16, 70001), torch.empty(12, 16))
    assert cut.slices % 3 == 0
    assert cut.segments * cut.chunks * cut.steps >= 70001
    assert len(cut.places) == cut.samples * cut.slices * cut.segments


def tokens(seed=0, *, batch=2, length=70, channels=20, size=5, rank=3, groups=2):
    """Return token-major inputs of a scan with everything it can have."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*of):
        return torch.randn(*of, generator=generator, dtype=torch.float64).requires_grad_()

    wide = normal(batch, length, 2 * channels)  # u and z are halves of it, as after a projection
    couplings = [normal(batch, length, groups, size) for _ in range(2)]
    rates = (-4 * torch.rand(channels, size, generator=generator, dtype=torch.float64) - 0.1).requires_grad_()
    named = {"D": normal(channels), "delta_bias": normal(channels), "delta_weight": normal(channels, rank)}
    named["state"] = normal(batch, channels, size)
    return wide, normal(batch, length, rank), rates, couplings, named


def spelled_out(u, delta, A, B, C, *, D, z, delta_bias, delta_weight, state, order):
    """Do the same step by step with the definition."""
    step = functional.softplus(delta @ delta_weight.t() + delta_bias)
    sequences = [x[:, order].transpose(1, 2) for x in (u, step)]
    coupled = [m[:, order].permute(0, 2, 3, 1) for m in (B, C)]
    y, last = selective_scan_reference(*sequences, A, *coupled, state=state)
    return (y.transpose(1, 2)[:, order.argsort()] + D * u) * functional.silu(z), last


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    "shape", [{}, {"channels": 8, "size": 16, "groups": 1}, {"channels": 48, "size": 1, "rank": 1}]
)
def test_tokens_are_scanned_where_they_lie_and_in_any_order(ordered, shape):
    wide, delta, A, (B, C), named = tokens(**shape)
    length = wide.shape[1]
    order = torch.randperm(length, generator=torch.Generator().manual_seed(0)) if ordered else torch.arange(length)
    leaves = [wide, delta, A, B, C, *named.values()]

    def both(scan, order):
        u, z = wide.chunk(2, -1)
        y, last = scan(u, delta, A, B, C, z=z, order=order, **named)
        weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
        return [y, last, *torch.autograd.grad((y * weight).sum() + last.sum(), leaves)]

    def fast(*arguments, order, **others):
        return scan_tokens(*arguments, softplus=True, order=order.int() if ordered else None, **others)

    for mine, theirs in zip(both(fast, order), both(spelled_out, order), strict=True):
        assert_close(mine, theirs)


@pytest.mark.parametrize("size", [1, 2, 3, 16])
@pytest.mark.parametrize(("dtype", "bounds"), [(torch.float64, (1e-12, 1e-12)), (torch.float32, (3e-6, 5e-6))])
def test_channels_of_every_number_share_a_vector_rightly(size, dtype, bounds):
    # Few channels leave lanes for several states of each; the states of 32 steps are kept for the way back.
    for channels in range(1, 18):
        wide, delta, A, (B, C), named = tokens(channels, channels=channels, size=size, length=45, rank=2, groups=1)
        order = torch.randperm(45, generator=torch.Generator().manual_seed(channels))
        mine = [x.detach().to(dtype).requires_grad_() for x in (wide, delta, A, B, C, *named.values())]
        leaves = [x.detach().double().requires_grad_() for x in mine]

        def outcome(scan, leaves, order, named=named, **others):
            wide, delta, A, B, C, *rest = leaves
            u, z = wide.chunk(2, -1)
            y, last = scan(u, delta, A, B, C, z=z, order=order, **dict(zip(named, rest, strict=True)), **others)
            weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y.dtype)
            return [y, last], torch.autograd.grad((y * weight).sum() + last.sum(), leaves)

        found = outcome(scan_tokens, mine, order.int(), softplus=True)
        expected = outcome(spelled_out, leaves, order)
        for bound, some, others in zip(bounds, found, expected, strict=True):
            one, other = (torch.cat([x.detach().double().flatten() for x in xs]) for xs in (some, others))
            off = float((one - other).abs().max() / other.abs().max())
            assert off <= bound, f"{channels} channels: off by {off:.1e}"


@pytest.mark.parametrize("channels", [2, 8])
def test_few_channels_without_a_gate_and_with_steps_of_their_own(channels):
    xs = inputs((2, channels, 16, 77), dtype=torch.float32)
    exact = [x.detach().double().requires_grad_() for x in xs]
    assert_same([x.double() for x in results(selective_scan, xs)], results(selective_scan_reference, exact), 5e-6)


def test_a_second_derivative_is_refused():
    u, delta, A, B, C, _ = inputs((1, 2, 2, 9))
    y, _ = selective_scan(u, delta, A, B, C)
    (first,) = torch.autograd.grad(y.square().sum(), u, create_graph=True)
    with pytest.raises(Error, match="the selective scan has no second derivative"):
        first.sum().backward()


def test_vmap_is_refused():
    u, delta, A, B, C, _ = (x.detach() for x in inputs((1, 2, 2, 9)))
    with pytest.raises(Error, match="the selective scan cannot be mapped by vmap"):
        torch.vmap(lambda x: selective_scan(x, delta, A, B, C)[0])(u[None])


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_state_in_float32(kind):
    u, delta, A, B, C, _ = (x.detach().float() for x in inputs((1, 8, 4, 40), step=0.1))
    exact, end = selective_scan(u, delta, A, B, C)
    with torch.autocast("cpu", kind):
        y, last = selective_scan(u.to(kind), delta, A, B, C)
    assert (y.dtype, last.dtype) == (kind, torch.float32)
    torch.testing.assert_close(last, end, rtol=0.02, atol=0.02)
    torch.testing.assert_close(y.float(), exact, rtol=0.02, atol=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"u": (3, 10)}, r"scan_tokens takes u of \[batch, length >= 1, channels\], got \(3, 10\)"),
        ({"delta": (2, 10, 5)}, r"scan_tokens takes delta of \(2, 10, 3\) with this delta_weight, got \(2, 10, 5\)"),
        ({"delta_weight": (5, 3)}, r"scan_tokens takes delta_weight of \[4 channels, rank\], got \(5, 3\)"),
        ({"order": (9,)}, r"scan_tokens takes an order of \(10,\) int32, got \(9,\)"),
        ({"B": (2, 9, 3)}, r"selective_scan takes B of"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(change, words):
    shapes = {
        "u": (2, 10, 4),
        "delta": (2, 10, 3),
        "A": (4, 3),
        "B": (2, 10, 3),
        "C": (2, 10, 3),
        "delta_weight": (4, 3),
    }
    given = {name: torch.zeros(shape) for name, shape in (shapes | change).items()}
    if "order" in given:
        given["order"] = given["order"].int()
    with pytest.raises(ShapeError, match=words):
        scan_tokens(**given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"u": (3, 10)}, r"selective_scan takes u of \[batch, channels, length >= 1\], got \(3, 10\)"),
        ({"delta": (2, 4, 9)}, r"selective_scan takes delta of \(2, 4, 10\) with this u, got \(2, 4, 9\)"),
        ({"A": (5, 3)}, r"selective_scan takes A of \[4 channels, state\], got \(5, 3\)"),
        ({"B": (2, 3, 9)}, r"selective_scan takes B of .* got \(2, 3, 9\)"),
        ({"C": (2, 3, 3, 10)}, r"selective_scan takes C of .*groups dividing 4, got \(2, 3, 3, 10\)"),
        ({"D": (3,)}, r"selective_scan takes D of \(4,\) with this u, got \(3,\)"),
        ({"z": (2, 4, 1)}, r"selective_scan takes z of \(2, 4, 10\) with this u, got \(2, 4, 1\)"),
        ({"state": (2, 4, 4)}, r"selective_scan takes state of \(2, 4, 3\) with this u, got \(2, 4, 4\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, words):
    shapes = {"u": (2, 4, 10), "delta": (2, 4, 10), "A": (4, 3), "B": (2, 3, 10), "C": (2, 3, 10)} | change
    with pytest.raises(ShapeError, match=words):
        selective_scan(**{name: torch.zeros(shape) for name, shape in shapes.items()})
