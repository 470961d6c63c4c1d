"""Sliding equals the network on the whole image, mirrored or slice by slice, where the network sees one voxel."""

import numpy as np
import pytest
import torch
from torch import nn

from mambino.core.options import PredictOptions
from mambino.errors import WeightsError
from mambino.inference.sliding import sliding
from tests.tiny import know, tiny_bundle, tiny_config

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    know(monkeypatch)


class Sides(nn.Module):
    """Class 1 scores the distance from the first plane of an axis, class 2 that from the last: a pair of organs."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x):
        ramp = torch.arange(x.shape[self.axis + 2], dtype=x.dtype)
        ramp = ramp.reshape(-1, *(1,) * (x.ndim - 3 - self.axis)).expand_as(x)
        return torch.cat([x, ramp + x, ramp.flip(self.axis + 2) + 2 * x], 1)


def voxels(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def whole(slabs):
    slabs = list(slabs)
    assert all(slab.scores.dtype == np.float32 for slab in slabs)
    assert [slab.start for slab in slabs] == np.cumsum([0, *(s.scores.shape[1] for s in slabs)])[:-1].tolist()
    return np.concatenate([slab.scores for slab in slabs], 1)


@torch.no_grad()
def direct(network, array):
    return network(torch.from_numpy(array)[None])[0].numpy()


@pytest.mark.parametrize(("dim", "shape"), [(2, (2, 21, 13)), (3, (2, 9, 17, 6)), (2, (2, 3, 30))])
@pytest.mark.parametrize("mirror", [False, True])
def test_windows_and_mirrors_change_nothing_for_a_network_of_single_voxels(dim, shape, mirror):
    config = tiny_config(dim, channels=2, mirror=tuple(range(dim)))
    network, array = tiny_bundle(config).network, voxels(*shape)
    found = whole(sliding(network, array, config, PredictOptions(mirror=mirror), CPU))
    np.testing.assert_allclose(found, direct(network, array), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 4100])
def test_a_2d_network_goes_over_a_volume_slice_by_slice(count):
    config = tiny_config(2, channels=2, slice_axis=0)
    network, array = tiny_bundle(config).network, voxels(2, count, 11, 7)
    found = whole(sliding(network, array, config, PredictOptions(overlap=0.25), CPU))
    expected = np.stack([direct(network, array[:, i]) for i in range(count)], 1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_slices_reach_the_network_in_blocks_without_repetition():
    seen = []

    class Counting(nn.Module):
        def forward(self, x):
            seen.append(x.shape)
            return x

    config = tiny_config(2, slice_axis=0, patch=(256, 256))
    slabs = list(sliding(Counting(), voxels(1, 9, 200, 256), config, PredictOptions(), CPU))
    assert seen == [(3, 1, 256, 256)] * 3
    assert [slab.scores.shape for slab in slabs] == [(1, 3, 200, 256)] * 3


def test_logits_are_averaged_over_all_mirrored_copies():
    config = tiny_config(2, patch=(6, 5), mirror=(0, 1))
    network, array = nn.Conv2d(1, 2, 3, padding=1), voxels(1, 6, 5)
    flips = [(), (1,), (2,), (1, 2)]
    expected = np.mean([np.flip(direct(network, np.flip(array, f).copy()), f) for f in flips], 0)
    found = whole(sliding(network, array, config, PredictOptions(mirror=True), CPU))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_mirror_the_network_sees_each_window_once():
    config = tiny_config(2, patch=(6, 5), mirror=(0, 1))
    network, array = nn.Conv2d(1, 2, 3, padding=1), voxels(1, 6, 5)
    found = whole(sliding(network, array, config, PredictOptions(), CPU))
    np.testing.assert_allclose(found, direct(network, array), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("slices", [False, True])
def test_paired_structures_change_places_when_their_axis_is_mirrored(slices):
    config = tiny_config(2, classes=3, patch=(4, 6), mirror=(0, 1), swap=((1, 2),), swap_axis=1)
    array = np.zeros((1, 4, 6), np.float32)
    if slices:
        config, array = tiny_config(2, **{**_fields(config), "slice_axis": 0}), array[:, None]
    found = whole(sliding(Sides(1), array, config, PredictOptions(mirror=True), CPU))
    expected = direct(Sides(1), np.zeros((1, 4, 6), np.float32))
    # Mirroring along the axis turns each ramp into the other, exchanging the pair turns it back.
    np.testing.assert_allclose(found[:, 0] if slices else found, expected, rtol=1e-6)


def test_bf16_is_close_and_comes_back_as_float32():
    config = tiny_config(3)
    network, array = tiny_bundle(config).network, voxels(1, 8, 8, 8)
    found = whole(sliding(network, array, config, PredictOptions(precision="bf16"), CPU))
    np.testing.assert_allclose(found, direct(network, array), rtol=3e-2, atol=3e-2)
    exact = whole(sliding(network, array, config, PredictOptions(), CPU))
    np.testing.assert_allclose(exact, direct(network, array), rtol=1e-5, atol=1e-6)


def test_values_that_are_not_finite_are_refused():
    config = tiny_config(2)
    network = tiny_bundle(config).network
    torch.nn.init.constant_(network.layer.bias, float("inf"))
    with pytest.raises(WeightsError, match="the network tiny gives values that are not finite") as caught:
        list(sliding(network, voxels(1, 8, 8), config, PredictOptions(), CPU))
    assert "--precision float32" in caught.value.hint


def _fields(config):
    return {name: getattr(config, name) for name in ("network", "patch", "mirror", "swap", "swap_axis")}
