"""VM-UNet and VMamba beyond the contract: directions, twins, a single channel, and what is refused."""

import pytest
import torch

from mambino.core.plan import NetworkSpec
from mambino.errors import OptionError, ShapeError
from mambino.models import build, segmenting
from mambino.models.cost import parameters
from mambino.nn.drop_path import rising_rates
from mambino.nn.ss2d import SS2D, VSSBlock
from tests.models.cases import spec


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("scan", ["selective", "identity"])
def test_a_token_reaches_all_others_along_every_axis_both_ways(dim, scan):
    torch.manual_seed(0)
    mixer = SS2D(dim, 4, state_size=2, scan=scan).double()
    side, middle = 9, (4,) * dim
    x = torch.randn(1, *(side,) * dim, 4, dtype=torch.float64)
    other = x.clone()
    other[(0, *middle)] += 1
    change = (mixer(other) - mixer(x)).abs().amax(-1)[0]
    for axis in range(dim):
        for end in (0, side - 1):
            at = tuple(end if a == axis else m for a, m in enumerate(middle))
            assert bool(change[at] > 1e-12) == (scan == "selective"), at


def test_in_3d_a_voxel_changes_the_output_of_the_network_in_all_six_directions():
    torch.manual_seed(0)
    network = build(spec("vm_unet", 3)).double().eval()
    x = torch.randn(1, 2, 40, 40, 40, dtype=torch.float64)
    other = x.clone()
    other[0, :, 20, 20, 20] += 1
    change = (network(other) - network(x)).abs().amax(1)[0]
    lines = change[:, 20, 20], change[20, :, 20], change[20, 20, :]
    assert all(bool(line[0] > 0) and bool(line[-1] > 0) for line in lines)


@pytest.mark.parametrize("name", ["swin_umamba", "swin_umamba_dagger", "vm_unet", "vmamba"])
def test_the_twin_without_recurrence_trains_and_is_smaller(name):
    whole, twin = build(spec(name, 2)), build(spec(name, 2, scan="identity"))
    assert parameters(twin) < parameters(whole)
    x = torch.randn(2, 2, 16, 16)
    sum(y.square().mean() for y in twin.scales(x)).backward()
    assert all(p.grad is not None for p in twin.parameters())
    with pytest.raises(OptionError, match="there is no scan 'fast'"):
        build(spec(name, 2, scan="fast"))


def test_a_single_channel_is_repeated_to_three():
    torch.manual_seed(0)
    network = build(NetworkSpec(name="vm_unet", dim=2, in_channels=3, out_channels=2, options={"width": 16})).eval()
    x = torch.randn(1, 1, 32, 32)
    assert torch.equal(network(x), network(x.repeat(1, 3, 1, 1)))
    grey = build(NetworkSpec(name="vm_unet", dim=2, in_channels=1, out_channels=2, options={"width": 16}))
    assert parameters(grey) == parameters(network)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vm_unet", {"width": 6}, "width must be a multiple of 4, got 6"),
        ("vm_unet", {"depths": (1,)}, "depths and decoder_depths need"),
        ("swin_umamba", {"width": 7}, "swin_umamba: width must be even, got 7"),
        ("swin_umamba", {"depths": (1,)}, "depths needs a number of at least 1 for each of two stages or more"),
        ("swin_umamba_dagger", {"decoder_depth": 0}, "decoder_depth must be at least 1, got 0"),
        ("vmamba", {"generation": 3}, "generations 1 and 2, got 3"),
        ("vmamba", {"depths": ()}, "every stage needs a block"),
    ],
)
def test_impossible_options_are_refused(name, options, message):
    with pytest.raises(OptionError, match=message):
        build(spec(name, 2, **options))


def test_a_classifier_takes_any_size_but_a_tiny_one():
    network = build(spec("vmamba", 2)).eval()
    assert network(torch.randn(2, 2, 17, 23)).shape == (2, 3)
    with pytest.raises(ShapeError, match=r"at least \(8, 8\), got \(7, 9\)"):
        network(torch.randn(1, 2, 7, 9))


def test_a_backbone_gives_the_features_of_every_stage():
    found = build(spec("vmamba_backbone", 2)).scales(torch.randn(1, 2, 32, 24))
    assert [tuple(y.shape) for y in found] == [(1, 4, 8, 6), (1, 8, 4, 3)]


def test_only_networks_that_give_masks_are_offered_for_training():
    assert "vm_unet" in segmenting()
    assert not {"vmamba", "vmamba_backbone"} & set(segmenting())


def test_rates_rise_to_the_last_block():
    assert rising_rates(0.2, 3) == [0, 0.1, 0.2]
    assert rising_rates(0.2, 1) == [0]


def test_a_perceptron_follows_the_scan_where_it_is_asked_for():
    names = {key.split(".")[0] for key in VSSBlock(2, 4, mlp_ratio=2).state_dict()}
    assert names == {"norm", "mixer", "norm2", "mlp"}
