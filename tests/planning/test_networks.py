"""Every size of every planned network can be built, and the last is the published one."""

import pytest

from mambino.core.plan import NetworkSpec
from mambino.models import build
from mambino.planning.networks import network, rounded_up, sizes
from mambino.planning.timing import outline
from mambino.planning.topology import topology


@pytest.mark.parametrize("name", ["unet", "lightm_unet", "lightm_unet_legacy"])
@pytest.mark.parametrize("dim", [2, 3])
def test_sizes_grow(name, dim):
    plan = topology((1.0,) * dim, (32,) * dim)
    counts = [outline(network(name, size, plan, 1, 2)).parameters for size in sizes(name)]
    assert counts == sorted(counts)


def test_the_last_size_of_lightm_unet_is_that_of_the_paper():
    published = NetworkSpec(name="lightm_unet", dim=3, in_channels=1, out_channels=2, options={})
    largest = network("lightm_unet", sizes("lightm_unet")[-1], topology((1, 1, 1), (32, 32, 32)), 1, 2)
    assert outline(largest).parameters == outline(published).parameters
    assert sum(parameter.numel() for parameter in build(published).parameters()) == outline(published).parameters


def test_other_networks_come_as_published():
    assert sizes("something_else") == ({},)


def test_patches_are_rounded_up_to_what_a_network_takes():
    assert rounded_up((10, 56, 41), (8, 8, 8)) == (16, 56, 48)
