"""Every size of every planned network can be built, and the last is the published one."""

from dataclasses import replace

import pytest

from mambino.core.plan import NetworkSpec
from mambino.models import build, describe, segmenting
from mambino.planning.networks import network, patch_of, rounded_up, sizes
from mambino.planning.timing import outline
from mambino.planning.topology import topology


@pytest.mark.parametrize(("name", "dim"), [(name, dim) for name in segmenting() for dim in describe(name).dims])
def test_sizes_grow_up_to_the_published_one(name, dim):
    plan = topology((1.0,) * dim, (64,) * dim)
    patch = patch_of(name, plan, (32,) * dim)
    specs = [network(name, size, plan, patch, 1, 2) for size in sizes(name)]
    counts = [outline(spec).parameters for spec in specs]
    assert counts == sorted(counts)
    assert len(counts) > 1
    kept = {"patch", "strides", "kernels", "features", "convs", "decoder_convs"}
    published = {key: value for key, value in specs[-1].options.items() if key in kept}
    assert outline(replace(specs[-1], options=published)).parameters == counts[-1]
    assert all(side % step == 0 for side, step in zip(patch, outline(specs[-1]).divisor, strict=True))


def test_the_last_size_of_lightm_unet_is_that_of_the_paper():
    published = NetworkSpec(name="lightm_unet", dim=3, in_channels=1, out_channels=2, options={})
    largest = network("lightm_unet", sizes("lightm_unet")[-1], topology((1, 1, 1), (32, 32, 32)), (32, 32, 32), 1, 2)
    assert outline(largest).parameters == outline(published).parameters
    assert sum(parameter.numel() for parameter in build(published).parameters()) == outline(published).parameters


def test_other_networks_come_as_published():
    assert sizes("something_else") == ({},)


def test_patches_are_rounded_up_to_what_a_network_takes():
    assert rounded_up((10, 56, 41), (8, 8, 8)) == (16, 56, 48)
