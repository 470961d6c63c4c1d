"""Every network, in all dimensions it has, keeps the contract: shapes, gradients, sizes, weights, export, scales."""

import pytest
import torch

from mambino.errors import ShapeError
from mambino.models import MODELS, build
from mambino.models.cost import parameters
from tests.models.cases import CASES, EVERY, PARAMETERS, SMALLEST, UNUSED, sides, spec

each = pytest.mark.parametrize(("name", "dim"), CASES)
of_any_kind = pytest.mark.parametrize(("name", "dim"), EVERY)


def network(name, dim, seed=0):
    torch.manual_seed(seed)
    return build(spec(name, dim))


def image(name, dim, batch=2, seed=0):
    return torch.randn(batch, 2, *sides(name, dim), generator=torch.Generator().manual_seed(seed))


def test_every_network_is_tested():
    assert set(SMALLEST) == set(PARAMETERS) == set(MODELS)
    assert {(name, dim) for name, counts in PARAMETERS.items() for dim in counts} == set(EVERY)


@each
def test_logits_have_the_sides_of_the_image(name, dim):
    x = image(name, dim)
    made = network(name, dim)
    for mode in (True, False):
        y = made.train(mode)(x)
        assert y.shape == (2, 3, *x.shape[2:])
        assert y.dtype == torch.float32


@each
def test_forward_is_the_finest_of_the_scales(name, dim):
    made, x = network(name, dim).eval(), image(name, dim)
    scales = made.scales(x)
    torch.testing.assert_close(made(x), scales[0])
    found = [y.shape[2:] for y in scales]
    assert found == sorted(found, reverse=True)
    assert all(y.shape[:2] == (2, 3) for y in scales)


@of_any_kind
def test_gradients_reach_every_parameter_and_the_image(name, dim):
    made, x = network(name, dim), image(name, dim).requires_grad_()
    with torch.no_grad():  # what begins at zero, as a still residual, lets nothing through before its first step
        for p in made.parameters():
            p.add_(0.01 * torch.randn_like(p))
    sum(y.square().mean() for y in made.scales(x)).backward()
    silent = [key for key, p in made.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    unused = UNUSED.get(name, ())
    assert all(key.startswith(unused) for key in silent), silent
    assert bool(silent) == bool(unused)
    # Biases before a normalisation of each channel by itself have no effect; all else does.
    flat = [key for key, p in made.named_parameters() if key not in silent and not p.grad.any()]
    assert [key for key in flat if not key.endswith("bias")] == []
    assert bool(x.grad.any())


@each
def test_sides_that_do_not_divide_are_refused_with_the_size_that_fits(name, dim):
    made, x = network(name, dim), image(name, dim)
    odd = x[..., :-1]
    with pytest.raises(ShapeError, match="sides of the image must be multiples of") as caught:
        made(odd)
    assert str(tuple(odd.shape[2:])) in str(caught.value)
    assert str(made.divisor) in str(caught.value)
    assert caught.value.hint == f"pad it to {tuple(x.shape[2:])}"


@of_any_kind
def test_other_channels_and_axes_are_refused(name, dim):
    made, x = network(name, dim), image(name, dim)
    with pytest.raises(ShapeError, match="the network takes 2 channels, got 1"):
        made(x[:, :1])
    with pytest.raises(ShapeError, match=r"the network takes \[batch, channels, \d axes\], got a tensor of"):
        made(x[..., 0])


@of_any_kind
def test_saved_weights_give_the_same_network(name, dim, tmp_path):
    made, other, x = network(name, dim).eval(), network(name, dim, seed=1).eval(), image(name, dim)
    assert not torch.equal(made(x), other(x))
    torch.save(made.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(made(x), other(x))


@of_any_kind
def test_the_same_seed_gives_the_same_network_and_gradients(name, dim):
    grads = []
    for _ in range(2):
        made = network(name, dim)
        made(image(name, dim)).square().mean().backward()
        grads.append([p.grad for p in made.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@of_any_kind
def test_it_exports(name, dim):
    made, x = network(name, dim).eval(), image(name, dim, batch=1)
    program = torch.export.export(made, (x,))
    torch.testing.assert_close(program.module()(x), made(x))


@of_any_kind
def test_parameters_are_as_many_as_recorded(name, dim):
    assert parameters(network(name, dim)) == PARAMETERS[name][dim]


@of_any_kind
def test_one_image_does_not_depend_on_the_others_of_its_batch(name, dim):
    made, x = network(name, dim).eval(), image(name, dim)
    torch.testing.assert_close(made(x)[:1], made(x[:1]), rtol=1e-4, atol=1e-5)


@of_any_kind
def test_bfloat16_autocast_is_close_and_keeps_gradients_finite(name, dim):
    made, x = network(name, dim), image(name, dim)
    with torch.autocast("cpu", torch.bfloat16):
        y = made(x)
    y.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)
    torch.testing.assert_close(y.float(), made(x), rtol=0.2, atol=0.2)
