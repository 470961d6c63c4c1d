"""U-Mamba has twins without its scan, and channel tokens for one size of image."""

import pytest
import torch

from mambino.core.plan import NetworkSpec
from mambino.errors import ShapeError
from mambino.models import build
from mambino.models.cost import multiply_adds
from mambino.models.umamba import Enlarge, MambaLayer
from mambino.nn.conv import ResidualBlock
from mambino.nn.mixers import Attention, ConvMixer
from tests.close import assert_close
from tests.models.cases import SMALLEST, spec

SEVEN = (32, 64, 128, 256, 512, 512, 512)
PLAN = {"blocks": (), "decoder_blocks": ()}  # as the original has them
NAMES = [name for name in SMALLEST if name.startswith("umamba")]


def full_size(name, into, out, features, shape, **options):
    options |= {"features": features} | ({"patch": shape} if name == "umamba_enc" else {})
    return NetworkSpec(name=name, dim=len(shape), in_channels=into, out_channels=out, options=options)


def test_enlarging_last_saves_work_and_changes_nothing():
    torch.manual_seed(0)
    layer, x = Enlarge(3, 4, 3, (1, 2, 3)), torch.randn(2, 4, 2, 3, 4)
    repeated = x.repeat_interleave(2, 3).repeat_interleave(3, 4)
    assert_close(layer(x), layer.conv(repeated))
    count = multiply_adds(full_size("umamba_bot", 1, 14, SEVEN, (320, 320)), (320, 320))
    assert count.products < 41.05e9  # of the original


def fed(asked, shape, *, seed=0):
    torch.manual_seed(seed)
    return build(asked), torch.randn(2, 2, *shape)


def learns(made, x):
    with torch.no_grad():  # residuals that begin still let nothing through before their first step
        for p in made.parameters():
            p.add_(0.01 * torch.randn_like(p))
    sum(y.square().mean() for y in made.scales(x)).backward()
    silent = [key for key, p in made.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    flat = [key for key, p in made.named_parameters() if not p.grad.any() and not key.endswith("bias")]
    return silent + flat == []


@pytest.mark.parametrize("options", [{"mixer": m} for m in ("conv", "attention", "none")] + [{"scan": "identity"}])
@pytest.mark.parametrize("name", NAMES)
def test_twins_without_the_scan_run_and_learn(name, options):
    for dim in (2, 3):
        made, x = fed(spec(name, dim, **options), (8, 12, 8)[:dim])
        assert made(x).shape == (2, 3, *x.shape[2:])
        assert learns(made, x)
        assert multiply_adds(spec(name, dim, **options), x.shape[2:]).scan == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_twin_differs_from_its_network_in_the_layer_alone(name):
    def rest(**options):
        state = build(spec(name, 2, **options)).state_dict()
        return {key: value.shape for key, value in state.items() if ".mixer." not in key}

    assert rest(scan="identity") == rest(mixer="conv") == rest(mixer="attention") == rest()
    without_layers = {key: shape for key, shape in rest().items() if "layer." not in key and "bottom." not in key}
    assert rest(mixer="none") == without_layers


@pytest.mark.parametrize("name", NAMES)
def test_the_identity_keeps_all_of_the_layer_but_the_recurrence(name):
    whole, twin = (set(build(spec(name, 2, scan=scan)).state_dict()) for scan in ("selective", "identity"))
    assert twin < whole
    assert {key.split(".mixer.")[1] for key in whole - twin} == {
        "A_log", "x_proj.weight", "dt_proj.weight", "dt_proj.bias"
    }  # fmt: skip


def test_twins_are_of_like_width():
    full, conv, attention, identity = (
        sum(p.numel() for p in MambaLayer(320, **options).parameters())
        for options in ({}, {"mixer": "conv"}, {"mixer": "attention"}, {"scan": "identity"})
    )
    for twin in (conv, attention, identity):
        assert 0.5 < twin / full < 1.1
    assert isinstance(MambaLayer(320, mixer="conv").mixer, ConvMixer)
    assert isinstance(MambaLayer(320, mixer="attention").mixer, Attention)


@pytest.mark.parametrize(("dim", "patch"), [(2, (8, 12)), (3, (4, 8, 8))])
def test_channel_tokens_run_learn_and_are_exported(dim, patch):
    asked = spec("umamba_enc", dim, patch=patch, features=(4, 6, 16), **PLAN)
    made, x = fed(asked, patch)
    assert made.patch == patch
    assert made.encoder[-1].layer.channels_as_tokens
    assert not made.encoder[0].layer.channels_as_tokens
    assert learns(made, x)
    made.eval()
    torch.testing.assert_close(torch.export.export(made, (x,)).module()(x), made(x))


def test_channel_tokens_refuse_another_size_with_both():
    made, _ = fed(spec("umamba_enc", 2, patch=(8, 12), features=(12, 32)), (8, 12))
    with pytest.raises(ShapeError, match=r"was built for images of \(8, 12\), got \(12, 8\)"):
        made(torch.zeros(1, 2, 12, 8))


@pytest.mark.parametrize("options", [{"patch": ()}, {"patch": (32, 32)}, {"patch": (8, 12), "mixer": "none"}])
def test_without_channel_tokens_images_of_any_size_fit(options):
    made, x = fed(spec("umamba_enc", 2, features=(12, 32), **options), (12, 8))
    assert made(x).shape == (2, 3, 12, 8)


def test_in_2d_every_second_stage_has_a_layer_and_the_finest_decoder_stage_no_skip():
    flat, deep = (build(spec("umamba_enc", dim, features=(4, 4, 4, 4), **PLAN)) for dim in (2, 3))
    assert [hasattr(stage, "layer") for stage in flat.encoder] == [False, True, False, True]
    assert [hasattr(stage, "layer") for stage in deep.encoder] == [True] * 4
    assert flat.decoder.stages[-1][0].conv1.in_channels == 4
    assert deep.decoder.stages[-1][0].conv1.in_channels == 8


@pytest.mark.parametrize(
    ("name", "still"), [("resenc_unet", True), ("umamba_enc_2024_01", True), ("umamba_bot_2024_01", False)]
)
def test_residuals_begin_still_where_those_of_the_original_do(name, still):
    blocks = [module for module in build(spec(name, 2)).modules() if isinstance(module, ResidualBlock)]
    assert blocks
    assert all(bool((block.conv2.norm.weight == 0).all()) == still for block in blocks)
