"""Mixers keep the shape of a sequence and see as far as they say; unknown ones are refused."""

import pytest
import torch

from mambino.errors import OptionError
from mambino.nn.mamba import Mamba
from mambino.nn.mixers import Attention, make_mixer
from tests.close import assert_close


@pytest.mark.parametrize("options", [{"mixer": m} for m in ("scan", "conv", "attention", "none")])
@pytest.mark.parametrize("width", [6, 25, 64])
def test_a_mixer_gives_tokens_of_the_same_shape(options, width):
    x = torch.randn(2, 9, width)
    assert make_mixer(**options, width=width)(x).shape == x.shape


def reached(options, place=10):
    """Return the tokens that a change of the one at `place` reaches."""
    torch.manual_seed(0)
    mixer, x = make_mixer(width=8, **options), torch.randn(1, 20, 8)
    changed = x.clone()
    changed[:, place] += 1
    with torch.no_grad():
        moved = (mixer(x) - mixer(changed)).abs().amax((0, 2))
    return (moved > 1e-7).nonzero().flatten().tolist()


def test_each_sees_as_far_as_it_says():
    assert reached({"mixer": "conv"}) == [8, 9, 10, 11, 12]
    assert reached({"mixer": "attention"}) == list(range(20))
    assert reached({"mixer": "none"}) == [10]
    assert reached({"mixer": "scan", "scan": "identity"}) == [10, 11, 12, 13]  # the causal convolution stays


def test_heads_divide_the_width():
    assert [Attention(width).heads for width in (16, 25, 64, 210, 320)] == [1, 1, 2, 6, 10]


def test_attention_is_that_of_the_formula():
    torch.manual_seed(0)
    mixer, x = Attention(64), torch.randn(2, 5, 64)
    query, key, value = (part.unflatten(-1, (2, 32)) for part in mixer.in_proj(x).chunk(3, -1))
    weights = torch.softmax(torch.einsum("blhe,bmhe->bhlm", query, key) / 32**0.5, -1)
    assert_close(mixer(x), mixer.out_proj(torch.einsum("bhlm,bmhe->blhe", weights, value).flatten(2)))


def test_the_identity_is_the_scan_whose_state_stays_empty():
    torch.manual_seed(0)
    whole, twin, x = Mamba(8), make_mixer("scan", 8, scan="identity"), torch.randn(2, 12, 8)
    shared = {key: value for key, value in whole.state_dict().items() if key in twin.state_dict()}
    twin.load_state_dict(shared)
    with torch.no_grad():
        whole.x_proj.weight[whole.rank :] = 0  # nothing enters the state or leaves it
    assert_close(twin(x), whole(x))


def test_unknown_names_are_refused():
    with pytest.raises(OptionError, match="there is no mixer 'lstm'"):
        make_mixer("lstm", 8)
    with pytest.raises(OptionError, match="there is no scan 'linear'"):
        make_mixer("conv", 8, scan="linear")
