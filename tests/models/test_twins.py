"""Networks without their scan: every twin runs and learns, and differs from its network in the layer alone.

U-Mamba's are tested beside it.
"""

import pytest
import torch

from mambino.errors import OptionError
from mambino.models import build, describe
from mambino.models.cost import multiply_adds, parameters
from tests.models.cases import UNUSED, sides, spec

LIGHT = ("lightm_unet", "lightm_unet_legacy", "lightm_unet_paper")
PARALLEL = ("ultralight_vm_unet",)
CROSSED = ("swin_umamba", "swin_umamba_dagger", "swin_umamba_first", "vm_unet", "vmamba", "vmamba_backbone")
WITHOUT_SCAN = [{"mixer": m} for m in ("conv", "attention", "none")] + [{"scan": "identity"}]
RECURRENCE = {
    **dict.fromkeys(LIGHT + PARALLEL, frozenset({"A_log", "x_proj.weight", "dt_proj.weight", "dt_proj.bias"})),
    **dict.fromkeys(CROSSED, frozenset({"A_log", "x_proj", "dt_proj", "dt_bias"})),
}
of_all = pytest.mark.parametrize("name", [*LIGHT, *PARALLEL, *CROSSED])


def shapes(name, **options):
    return {key: tuple(value.shape) for key, value in build(spec(name, 2, **options)).state_dict().items()}


def inside(key):
    """Return what a key names within a mixer, if anything."""
    return key.partition(".mixer." if ".mixer." in key else ".mamba.")[2]


def check_learning(asked, name):
    torch.manual_seed(0)
    made, x = build(asked), torch.randn(2, 2, *sides(name, asked.dim))
    sum(y.square().mean() for y in made.scales(x)).backward()
    unused = UNUSED.get(name, ("-",))
    used = {key: p for key, p in made.named_parameters() if not key.startswith(unused)}
    assert [key for key, p in used.items() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    assert [key for key, p in used.items() if not p.grad.any() and not key.endswith("bias")] == []


@of_all
@pytest.mark.parametrize("options", WITHOUT_SCAN, ids=str)
def test_twins_without_the_scan_run_and_learn(name, options):
    for dim in describe(name).dims:
        asked = spec(name, dim, **options)
        check_learning(asked, name)
        assert multiply_adds(asked, sides(name, dim)).scan == 0 < multiply_adds(spec(name, dim), sides(name, dim)).scan


@pytest.mark.parametrize(
    "options", [{"adjustment": False}, {"residual": False}, {"scan": "identity", "residual": False}], ids=str
)
@pytest.mark.parametrize("name", LIGHT)
def test_lightm_unet_without_scale_or_residual_runs_and_learns(name, options):
    for dim in describe(name).dims:
        check_learning(spec(name, dim, **options), name)
    lost = set(shapes(name)) - set(shapes(name, **options))
    assert {key.rpartition(".")[2] for key in lost if not inside(key)} == {"skip_scale"}
    assert all(key.startswith(("stages.", "bottom.")) for key in lost)


@of_all
def test_a_twin_differs_from_its_network_in_the_layer_alone(name):
    def rest(**options):
        return {key: shape for key, shape in shapes(name, **options).items() if not inside(key)}

    assert rest(scan="identity") == rest(mixer="conv") == rest(mixer="attention") == rest()
    none = shapes(name, mixer="none")
    assert not any(inside(key) for key in none)
    assert none.items() < rest().items()
    lost = {key for key in rest() if key not in none}
    assert all(key.split(".")[-2] in {"norm", "norm2"} or key.endswith(".skip_scale") for key in lost)


@of_all
def test_the_identity_leaves_out_what_only_the_recurrence_uses(name):
    whole, twin = shapes(name), shapes(name, scan="identity")
    assert twin.items() < whole.items()
    assert {inside(key) for key in whole.keys() - twin.keys()} == RECURRENCE[name]


@pytest.mark.parametrize(("name", "width"), [("lightm_unet", 32), ("vm_unet", 48)])
def test_twins_are_of_like_size(name, width):
    def count(**options):
        with torch.device("meta"):
            return parameters(build(spec(name, 2, width=width, **options)))

    none = count(mixer="none")
    whole, *twins = (count(**options) - none for options in ({}, {"mixer": "conv"}, {"mixer": "attention"}))
    assert all(0.4 < twin / whole < 1.1 for twin in twins)
    assert none < count(scan="identity") < count()


@of_all
def test_unknown_names_are_refused(name):
    with pytest.raises(OptionError, match="there is no mixer 'gru'"):
        build(spec(name, 2, mixer="gru"))
    with pytest.raises(OptionError, match="there is no scan 'fast'"):
        build(spec(name, 2, scan="fast"))
    with pytest.raises(OptionError, match="there is no scan 'fast'"):
        build(spec(name, 2, mixer="conv", scan="fast"))


def test_a_layer_of_nothing_is_refused():
    with pytest.raises(OptionError, match="mixer 'none' leaves nothing but the residual, and residual is False"):
        build(spec("lightm_unet", 2, mixer="none", residual=False))


@pytest.mark.parametrize(("mixer", "reach"), [("conv", 2), ("attention", 5), ("none", 0)])
def test_mixers_of_a_grid_see_as_far_as_they_say(mixer, reach):
    from mambino.nn.ss2d import VSSBlock

    for dim in (2, 3):
        torch.manual_seed(0)
        block, x = VSSBlock(dim, 4, mixer=mixer).double(), torch.randn(1, *(11,) * dim, 4, dtype=torch.float64)
        other = x.clone()
        other[(0, *(5,) * dim, 0)] += 1
        moved = ((block(other) - block(x)).abs().amax(-1)[0] > 1e-12).nonzero() - 5
        assert moved.amin(0).tolist() == [-reach] * dim
        assert moved.amax(0).tolist() == [reach] * dim
