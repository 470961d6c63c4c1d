"""The baselines of the papers have the published sizes, and say what size of image they take."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from mambino.core.plan import NetworkSpec
from mambino.errors import OptionError, ShapeError
from mambino.models import build, divisor
from mambino.nn.drop_path import DropPath
from mambino.nn.patches import PatchMerging
from mambino.nn.swin import SwinBlock
from tests.models.cases import spec


@pytest.mark.parametrize("name", ["swin_unet", "unetr"])
def test_an_image_of_another_size_is_refused_with_both_sizes(name):
    network = build(spec(name, 2))
    with pytest.raises(ShapeError, match=r"the network was built for images of \(32, 48\), got \(48, 32\)"):
        network(torch.zeros(1, 2, 48, 32))


def test_an_image_that_leaves_one_voxel_is_refused_by_swin_unetr():
    with pytest.raises(ShapeError, match=r"an image of \(8, 8, 8\) leaves a single voxel at the coarsest stage"):
        build(spec("swin_unetr", 3))(torch.zeros(1, 2, 8, 8, 8))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("segresnet", {"width": 12}, "segresnet: width 12 is not a multiple of 8, the groups"),
        ("segresnet", {"blocks": (1, 1, 1)}, "segresnet: 3 encoder stages need one decoder stage less, got 1"),
        ("attention_unet", {"features": (8,)}, r"attention_unet: features needs two numbers of 2 or more, got \(8,\)"),
        ("unetr", {"patch": (32, 40)}, r"patch needs 2 numbers that are multiples of 16, got \(32, 40\)"),
        ("unetr", {"patch": (32, 32, 32)}, r"patch needs 2 numbers that are multiples of 16, got \(32, 32, 32\)"),
        ("unetr", {"hidden": 5}, "unetr: hidden 5 is not a multiple of heads 2"),
        ("swin_unetr", {"depths": (1, 0)}, r"depths needs a number of at least 1 for each of heads \(1, 2\), got"),
        ("swin_unetr", {"heads": (1, 3)}, "swin_unetr: 8 channels of level 1 cannot be shared by 3 heads"),
        ("swin_unetr", {"window": 0}, "swin_unetr: window needs at least 1 token, got 0"),
        ("swin_unet", {"heads": (1, 3)}, "swin_unet: 8 channels of level 1 cannot be shared by 3 heads"),
        ("swin_unet", {"patch": (32, 44)}, r"the sides of patch must be multiples of \(8, 8\), got \(32, 44\)"),
        ("swin_unet", {"patch": (32,)}, r"the sides of patch must be multiples of \(8, 8\), got \(32,\)"),
        ("swin_unet", {"window": 5}, r"windows of 5 tokens do not fill the map of \(8, 12\) tokens at level 0"),
        ("swin_unet", {"drop_path": 1.0}, "drop_path must be at least 0 and below 1, got 1.0"),
    ],
)
def test_values_that_do_not_fit_are_refused(name, options, words):
    with pytest.raises(OptionError, match=words):
        build(spec(name, 2, **options))


def test_sizes_of_the_papers_are_the_defaults():
    assert build(NetworkSpec(name="unetr", dim=3, in_channels=1, out_channels=2, options=TINY_UNETR)).patch == (96,) * 3
    assert divisor(NetworkSpec(name="swin_unet", dim=2, in_channels=1, out_channels=2, options={})) == (32, 32)
    assert divisor(NetworkSpec(name="swin_unetr", dim=3, in_channels=1, out_channels=2, options={})) == (32, 32, 32)


@pytest.mark.parametrize("dim", [2, 3])
def test_attention_unet_is_that_of_monai(dim):
    nets = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(0)
    ours, theirs = build(spec("attention_unet", dim)).eval(), nets.AttentionUnet(dim, 2, 3, (4, 6, 8), (2, 2)).eval()
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.load_state_dict(state)
    x = torch.randn(2, 2, *(16, 24, 32)[:dim])
    assert torch.equal(ours(x), theirs(x))


TINY_UNETR = {"width": 2, "hidden": 4, "mlp": 4, "heads": 2}


def test_a_network_for_grey_images_is_the_wrapper_that_repeats_them_with_kernels_added():
    torch.manual_seed(0)
    grey, colour = (build(spec("swin_unet", 2).__class__(**{**ARGUMENTS, "in_channels": c})) for c in (1, 3))
    state = colour.state_dict()
    state["embed.weight"] = state["embed.weight"].sum(1, keepdim=True)
    grey.load_state_dict(state)
    x = torch.randn(1, 1, 32, 48)
    torch.testing.assert_close(grey.eval()(x), colour.eval()(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


ARGUMENTS = {"name": "swin_unet", "dim": 2, "out_channels": 3, "options": spec("swin_unet", 2).options}


def attention_of_shifted_windows(block, x, window, shift):
    """Compute what a block's attention does, token by token: who shares a window and is a neighbour."""
    _, height, width, _ = x.shape
    inner = block.attention.attention
    q, k, v = inner.qkv(x[0]).reshape(height * width, 3, inner.heads, -1).permute(1, 2, 0, 3)
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    # A shifted image is cut into windows from its beginning; what wraps round forms windows of its own.
    cells = (places + window - shift) // window
    allowed = (cells[:, None] == cells[None]).all(-1)
    apart = (places[:, None] - places[None] + window - 1).clamp(0, 2 * window - 2)
    bias = block.attention.table[apart[..., 0] * (2 * window - 1) + apart[..., 1]].permute(2, 0, 1)
    mixed = scaled_dot_product_attention(q, k, v, attn_mask=bias.masked_fill(~allowed, -torch.inf))
    return inner.proj(mixed.transpose(0, 1).reshape(1, height, width, -1))


@pytest.mark.parametrize("shifted", [False, True])
def test_windows_are_attended_to_as_defined(shifted):
    torch.manual_seed(0)
    block, x = SwinBlock(2, 6, 2, 4, shifted=shifted).eval(), torch.randn(1, 8, 12, 6)
    torch.nn.init.normal_(block.attention.table)
    wanted = x + attention_of_shifted_windows(block, block.norm1(x), 4, 2 if shifted else 0)
    wanted = wanted + block.mlp(block.norm2(wanted))
    torch.testing.assert_close(block(x), wanted, rtol=1e-4, atol=1e-5)


def test_merging_in_three_axes_repeats_two_neighbours_and_misses_two():
    merging = PatchMerging(3, 1, repeat=True)
    seen = set()
    for place in range(8):
        x = torch.zeros(8)
        x[place] = 1.0
        if not torch.equal(merging(x.reshape(1, 2, 2, 2, 1)), merging(torch.zeros(1, 2, 2, 2, 1))):
            seen.add(divmod(place, 4)[:1] + divmod(place % 4, 2))
    assert seen == {(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)} - {(1, 1, 0), (0, 1, 1)}


def test_a_dropped_branch_is_made_up_for_by_the_others():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    y = drop(x)
    torch.testing.assert_close(y.unique(), torch.tensor([0.0, 4 / 3]))
    assert (y.amin((1, 2)) == y.amax((1, 2))).all()
    assert float(y.mean()) == pytest.approx(1.0, abs=0.03)
    assert torch.equal(drop.eval()(x), x)


def test_later_blocks_of_swin_unet_are_left_out_more_often():
    network = build(spec("swin_unet", 2, drop_path=0.2))
    rates = [[block.drop_path.rate for block in stage] for stage in (*network.stages, *network.decoder)]
    assert rates == [[0.0, 0.1], [0.2], [0.0, 0.1]]
