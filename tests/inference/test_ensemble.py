"""Bundles that look at images in the same way are averaged; others are refused by field."""

import numpy as np
import pytest
import torch

from mambino.core.labels import Labels
from mambino.core.options import PredictOptions
from mambino.core.plan import Normalise
from mambino.errors import OptionError
from mambino.inference.ensemble import common_header, logits
from mambino.inference.sliding import sliding
from tests.tiny import know, saved, tiny_bundle, tiny_config

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    know(monkeypatch)


def whole(slabs):
    return np.concatenate([slab.scores for slab in slabs], 1)


def test_logits_of_several_bundles_are_averaged_after_their_temperatures():
    first, second = tiny_bundle(seed=0), tiny_bundle(seed=1, temperature=2.0)
    array = np.random.default_rng(0).standard_normal((1, 12, 9, 8)).astype(np.float32)
    alone = [whole(sliding(b.network, array, b.config, PredictOptions(), CPU)) for b in (first, second)]
    found = whole(logits((first, second), array, PredictOptions(), CPU))
    np.testing.assert_allclose(found, (alone[0] + alone[1] / 2) / 2, rtol=1e-5, atol=1e-6)


def test_one_bundle_is_itself():
    bundle, array = tiny_bundle(), np.ones((1, 8, 8, 8), np.float32)
    alone = whole(sliding(bundle.network, array, bundle.config, PredictOptions(), CPU))
    np.testing.assert_array_equal(whole(logits([bundle], array, PredictOptions(), CPU)), alone)


def test_bundles_may_differ_in_network_and_training(tmp_path):
    config = tiny_config()
    other = tiny_config(batch=7, memory=3.0)
    paths = [saved(tmp_path, tiny_bundle(config), "a"), saved(tmp_path, tiny_bundle(other, seed=1), "b")]
    assert common_header(paths).config == config


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("spacing", {"spacing": (1.0, 1.0, 2.0)}),
        ("patch", {"patch": (8, 8, 16)}),
        ("normalise", {"normalise": (Normalise(scheme="zscore"),)}),
        ("orientation", {"orientation": "RAS"}),
    ],
)
def test_bundles_that_see_images_differently_are_refused(tmp_path, field, change):
    paths = [saved(tmp_path, tiny_bundle(), "a"), saved(tmp_path, tiny_bundle(tiny_config(**change)), "b")]
    with pytest.raises(OptionError, match=rf"do not belong together: {field} is .* in .*a.safetensors and .* in .*b"):
        common_header(paths)


@pytest.mark.parametrize(
    ("field", "change"), [("labels", {"labels": Labels(names={"liver": (1,)})}), ("channels", {"channels": ("T2",)})]
)
def test_bundles_of_other_labels_or_channels_are_refused(tmp_path, field, change):
    paths = [saved(tmp_path, tiny_bundle(), "a"), saved(tmp_path, tiny_bundle(**change), "b")]
    with pytest.raises(OptionError, match=f"do not belong together: {field} is"):
        common_header(paths)


def test_no_bundle_is_refused():
    with pytest.raises(OptionError, match="at least one bundle, got none"):
        common_header([])
