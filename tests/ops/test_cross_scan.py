"""A scan along several paths is the sum of scans of sequences put into their orders; forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.errors import Error, ShapeError
from mambino.ops.cross_scan import cross_scan
from mambino.ops.scan_paths import scan_paths
from mambino.ops.selective_scan import native, selective_scan
from tests.close import assert_close

pytestmark = pytest.mark.usefixtures("path")


def inputs(batch, space, channels, states, rank, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    paths = scan_paths(space)
    count, length = paths.shape
    return [
        normal(batch, length, channels),
        normal(batch, length, count * (rank + 2 * states)),
        -normal(count, channels, states).abs() - 0.1,
        normal(count, channels),
        normal(count, channels, rank),
        normal(count, channels),
    ], paths


def by_definition(u, coefficients, A, D, W, bias, paths):
    """Take every sequence out, scan it, and put what comes back in its place."""
    rank, states = W.shape[2], A.shape[2]
    total = torch.zeros_like(u)
    for k, order in enumerate(paths.long()):
        step, enter, leave = (
            x[:, order].transpose(1, 2) for x in coefficients.chunk(len(paths), -1)[k].split([rank, states, states], -1)
        )
        y, _ = selective_scan(
            u[:, order].transpose(1, 2), W[k] @ step, A[k], enter, leave, D=D[k], delta_bias=bias[k], softplus=True
        )
        total = total.index_add(1, order, y.transpose(1, 2))
    return total


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    space=st.one_of(
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    ),
    channels=st.sampled_from([1, 3, 8, 17]),
    states=st.sampled_from([1, 4, 16]),
    rank=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_it_is_the_sum_of_its_scans(batch, space, channels, states, rank, seed):
    given_, paths = inputs(batch, space, channels, states, rank, seed)
    results = []
    for scan in (cross_scan, by_definition):
        leaves = [x.clone().requires_grad_() for x in given_]
        y = scan(*leaves, paths)
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype)
        results.append([y, *torch.autograd.grad((y * weight).sum(), leaves)])
    for actual, expected in zip(*results, strict=True):
        bound = 1e-9 * float(expected.detach().abs().max() + 1)
        torch.testing.assert_close(actual, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("space", [(3, 4), (2, 3, 4)])
def test_paths_run_along_every_axis_both_ways(space):
    paths = scan_paths(space)
    tokens = torch.arange(paths.shape[1]).view(space)
    half = len(space)
    assert len(paths) == 2 * half
    for i, axis in enumerate(reversed(range(half))):
        assert torch.equal(paths[i].long(), tokens.movedim(axis, -1).flatten())
        assert torch.equal(paths[half + i], paths[i].flip(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scanned_in_float32(dtype):
    given_, paths = inputs(2, (5, 6), 8, 4, 2, dtype=dtype)
    wide = [x.float() for x in given_]
    y = cross_scan(*given_, paths)
    assert y.dtype == dtype
    assert torch.equal(y, cross_scan(*wide, paths).to(dtype))


def test_torch_accepts_the_operator():
    given_, paths = inputs(1, (3, 4), 3, 2, 1, dtype=torch.float32)
    leaves = [x.requires_grad_() for x in given_]
    torch.library.opcheck(torch.ops.mambino.cross_scan.default, (*leaves, paths, True))


def test_it_compiles_to_one_graph_and_exports(path):
    if path not in {"portable", native.instruction_sets()[0] if not native.missing() else ""}:
        pytest.skip("compilation does not depend on the instruction set")

    class Net(torch.nn.Module):
        def forward(self, *x):
            return cross_scan(*x)

    given_, paths = inputs(1, (3, 4), 3, 2, 1, dtype=torch.float32)
    expected = cross_scan(*given_, paths)
    compiled = torch.compile(Net(), fullgraph=True, backend="aot_eager")
    assert_close(compiled(*given_, paths), expected)
    program = torch.export.export(Net(), (*given_, paths))
    assert_close(program.module()(*given_, paths), expected)
    assert any("cross_scan" in str(node.target) for node in program.graph.nodes)


def test_a_second_derivative_is_refused():
    given_, paths = inputs(1, (2, 2), 2, 2, 1)
    leaves = [x.requires_grad_() for x in given_]
    (first,) = torch.autograd.grad(cross_scan(*leaves, paths).square().sum(), leaves[0], create_graph=True)
    with pytest.raises(Error, match="no second derivative"):
        first.sum().backward()


def test_vmap_is_refused():
    given_, paths = inputs(1, (2, 2), 2, 2, 1)
    with pytest.raises(Error, match="cannot be mapped by vmap"):
        torch.vmap(lambda u: cross_scan(u, *given_[1:], paths))(given_[0][None])


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (0, lambda x: x[0], r"u of \[batch"),
        (1, lambda x: x[..., 1:], r"coefficients of \(1, 12, 20\) .* got \(1, 12, 19\)"),
        (2, lambda x: x[:, 1:], r"A of \[paths, 3 channels, state\]"),
        (3, lambda x: x[1:], r"D of \(4, 3\) .* got \(3, 3\)"),
        (4, lambda x: x[0], r"W of \[paths, channels, rank\]"),
        (5, lambda x: x[:, 1:], r"bias of \(4, 3\) .* got \(4, 2\)"),
        (6, lambda x: x[:, 1:], r"paths of \(4, 12\) .* got \(4, 11\)"),
        (6, lambda x: x.long(), r"paths of int32, got torch.int64"),
    ],
)
def test_what_does_not_fit_is_named_with_both_sizes(place, change, message):
    given_, paths = inputs(1, (3, 4), 3, 2, 1)
    everything = [*given_, paths]
    everything[place] = change(everything[place])
    with pytest.raises(ShapeError, match=message):
        cross_scan(*everything)
