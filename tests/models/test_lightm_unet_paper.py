"""LightM-UNet as described has no more parameters than the paper states, and tiles give what the whole gives."""

import pytest
import torch

from mambino.core.plan import NetworkSpec
from mambino.errors import OptionError
from mambino.models import build
from mambino.models.cost import parameters
from mambino.models.lightm_unet import PROMISED
from mambino.nn import mamba
from tests.close import assert_close
from tests.models.cases import spec

# By the number of axes: channels and classes of the paper's data, and the parameters that it states.
STATED = {2: (3, 2, 1_090_000), 3: (1, 3, 1_870_000)}


def count(dim, **options):
    channels, classes, _ = STATED[dim]
    asked = NetworkSpec(name="lightm_unet_paper", dim=dim, in_channels=channels, out_channels=classes, options=options)
    with torch.device("meta"):
        return parameters(build(asked))


@pytest.mark.parametrize(("dim", "counted"), [(2, 1_030_421), (3, 1_705_850)])
def test_the_default_width_is_the_largest_that_keeps_the_promise(dim, counted):
    assert count(dim) == count(dim, width=PROMISED[dim]) == counted
    assert counted <= STATED[dim][2] < count(dim, width=PROMISED[dim] + 2)


def test_encoder_blocks_halve_the_sides_and_double_the_channels():
    made = build(spec("lightm_unet_paper", 2, width=4, blocks=(1, 2, 2, 4)))
    x, shapes = made.stem(torch.randn(1, 2, 16, 24)), []
    for stage in made.stages:
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(8, 8, 12), (16, 4, 6), (32, 2, 3)]
    assert made.bottom(x).shape == x.shape
    assert [len(stage) - 1 for stage in made.stages] == [1, 2, 2]
    assert len(made.bottom) == 4


def test_a_layer_normalises_apart_before_the_scan_behind_it_and_before_the_projection():
    layer = build(spec("lightm_unet_paper", 2)).bottom[0]
    assert {key for key in layer.state_dict() if "norm" in key} == {
        f"{norm}.{kind}" for norm in ("norm", "norm2", "mamba.norm") for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("scan", ["selective", "identity"])
def test_tiles_give_what_the_whole_gives(scan, monkeypatch):
    torch.manual_seed(0)
    made, x = build(spec("lightm_unet_paper", 2, scan=scan)).eval(), torch.randn(1, 2, 12, 16)
    with torch.no_grad():
        whole = made(x)
        monkeypatch.setattr(mamba, "TILE", 7)
        assert_close(made(x), whole)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 7}, "width must be even, or 0 for the size that the paper promises, got 7"),
        ({"width": -2}, "width must be even, or 0 for the size that the paper promises, got -2"),
        ({"blocks": (2,)}, r"blocks needs at least 1 for each encoder block and for the bottom, got \(2,\)"),
        ({"blocks": (2, 0)}, r"blocks needs at least 1 for each encoder block and for the bottom, got \(2, 0\)"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(OptionError, match=words):
        build(spec("lightm_unet_paper", 2, **options))
