"""Networks are built by name, refuse what they do not know, and say what is claimed of them."""

import json
import re
import subprocess
import sys

import pytest
import torch

from mambino import models
from mambino.core.plan import NetworkSpec
from mambino.errors import OptionError, ShapeError
from mambino.models import MODELS, build, describe, divisor, list_models, names
from mambino.models.cost import parameters
from tests.models.cases import spec
from tests.places import ROOT


def test_a_misspelt_network_is_answered_with_the_nearest():
    with pytest.raises(OptionError, match="there is no network 'lightm_unt'") as caught:
        build(NetworkSpec(name="lightm_unt", dim=2, in_channels=1, out_channels=2, options={}))
    assert caught.value.hint == "did you mean lightm_unet?"
    with pytest.raises(OptionError, match="there is no network 'zzz'") as caught:
        describe("zzz")
    assert caught.value.hint == f"choose from {', '.join(names())}"


def test_an_unknown_option_is_named_with_the_known_ones():
    with pytest.raises(
        OptionError, match="the network unet has no option 'feature'; it has features, kernels"
    ) as caught:
        build(spec("unet", 2, feature=3))
    assert caught.value.hint == "did you mean features?"


def test_options_may_be_the_lists_of_a_json_file():
    options = json.loads('{"features": [4, 8], "kernels": [[3, 3], [3, 3]], "strides": [[1, 1], [2, 1]]}')
    asked = NetworkSpec(name="unet", dim=2, in_channels=1, out_channels=2, options=options)
    assert build(asked).divisor == divisor(asked) == (2, 1)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("lightm_unet", {"width": 12}, "width 12 is not a multiple of 8, the groups of its normalisation"),
        ("lightm_unet_legacy", {"width": 0}, "width 0 is not a multiple of 8"),
        ("lightm_unet", {"blocks": (1, 1, 1)}, "3 encoder stages need one decoder stage less, got 1"),
        ("lightm_unet", {"blocks": (1, 0)}, r"every stage needs at least one block, got \(1, 0, 1\)"),
        ("lightm_unet", {"upsample": "nearest"}, "lightm_unet: upsample 'nearest' is not known"),
        ("unet", {"features": (4,), "convs": (), "decoder_convs": ()}, "features needs at least 2 stages, got 1"),
        ("unet", {"kernels": ((3, 3),)}, "kernels needs 2 numbers for each of 3 stages"),
        ("unet", {"strides": ((1,), (2,), (2,))}, "strides needs 2 numbers for each of 3 stages"),
        ("unet", {"convs": (1, 1)}, r"convs needs 3 numbers of at least 1, got \(1, 1\)"),
        ("unet", {"decoder_convs": (1, 0)}, r"decoder_convs needs 2 numbers of at least 1, got \(1, 0\)"),
        ("unet", {"kernels": ((2, 2),) * 3}, "kernels must be odd, got 2"),
        ("resenc_unet", {"blocks": (1,)}, r"resenc_unet: blocks needs 3 numbers of at least 1, got \(1,\)"),
        ("umamba_enc", {"patch": (8,)}, r"umamba_enc: patch needs 2 multiples of \(2, 2\), got \(8,\)"),
        ("umamba_enc", {"patch": (8, 9)}, r"patch needs 2 multiples of \(2, 2\), got \(8, 9\)"),
        ("umamba_bot", {"mixer": "gru"}, "there is no mixer 'gru'"),
        ("umamba_bot", {"scan": "none"}, "there is no scan 'none'"),
    ],
)
def test_values_that_do_not_fit_are_refused(name, options, words):
    with pytest.raises(OptionError, match=words):
        build(spec(name, 2, **options))


@pytest.mark.parametrize("dim", [1, 4])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_other_numbers_of_axes_are_refused(name, dim):
    dims = describe(name).dims
    asked = NetworkSpec(name=name, dim=dim, in_channels=1, out_channels=2, options={})
    with pytest.raises(OptionError, match=f"the network {name} has {' or '.join(map(str, dims))} axes, got {dim}"):
        build(asked)


def test_an_image_that_leaves_one_voxel_is_refused_by_the_unet():
    network = build(spec("unet", 2))
    with pytest.raises(ShapeError, match=r"an image of \(4, 4\) leaves a single voxel at the coarsest stage"):
        network(torch.zeros(1, 2, 4, 4))


def test_another_package_may_bring_networks(monkeypatch):
    monkeypatch.setattr(models, "_extensions", lambda: {"mine": "mambino.models.unet:UNet"})
    asked = NetworkSpec(name="mine", dim=2, in_channels=1, out_channels=2, options={"features": (2, 2)})
    assert parameters(build(asked)) > 0
    assert "mine" in models.names()
    assert describe("mine").title == "mine"


def test_every_network_is_described_and_documented():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    for described in list_models():
        assert described.name in MODELS
        assert f"`{described.name}`" in page
        for number in re.findall(r"\d+\.\d+ M", described.claimed + described.counted):
            assert number in page


def test_names_and_descriptions_need_no_torch():
    code = "import sys, mambino.models as m; m.list_models(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("options", [{"features": 3}, {"features": (-1, 4)}, {"features": (4, "x")}])
def test_options_that_no_layer_can_have_are_said(options):
    spec = NetworkSpec(name="unet", dim=2, in_channels=1, out_channels=2, options=options)
    with pytest.raises(OptionError, match="unet"):
        build(spec)


def test_what_a_network_raises_names_it_and_its_options():
    spec = NetworkSpec(name="unet", dim=2, in_channels=1, out_channels=2, options={"features": 3})
    with pytest.raises(OptionError, match=r"the network unet cannot be made with the options .*'features': 3"):
        build(spec)
