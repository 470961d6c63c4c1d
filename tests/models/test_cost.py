"""Operations are told apart by kind, memory grows with the image, and counts stand beside claims."""

import pytest

from mambino.cli.app import dispatch
from mambino.core.plan import NetworkSpec
from mambino.errors import OptionError, ShapeError
from mambino.models import describe, measuring
from mambino.models.cost import activation_bytes, cost, multiply_adds
from mambino.models.measuring import STATUS, peaks
from tests.models.cases import CASES, PATCH, spec


@pytest.mark.parametrize(("name", "dim"), CASES)
def test_activations_grow_with_the_image_and_more_in_training(name, dim):
    def of(side, **how):
        shape = (side,) * dim
        return activation_bytes(spec(name, dim, **({"patch": shape} if name in PATCH else {})), shape, 2, **how)

    training = of(16)
    assert of(16, training=False) < training
    ratio = of(32) / training
    assert 0.6 * 2**dim < ratio < 1.1 * 2**dim


def test_activations_are_at_least_what_is_stored_for_the_way_back():
    asked = NetworkSpec(name="unet", dim=2, in_channels=1, out_channels=2, options={"features": (8, 8)})
    # Two stages of two blocks down and one of two up: each keeps its convolution's and its normalisation's output.
    at_full_side = 4 * 2 * 64 * 64 * 8 * 4
    assert at_full_side < activation_bytes(asked, (64, 64), 1) < 3 * at_full_side


def test_operations_are_told_apart_by_kind_of_layer():
    plain = multiply_adds(NetworkSpec(name="unet", dim=2, in_channels=1, out_channels=2, options={}), (64, 64))
    assert (plain.linear, plain.attention, plain.scan, plain.scan_exact) == (0, 0, 0, 0)
    assert plain.convolutions == plain.products == plain.total
    options = {"patch": (32, 32), "width": 2, "hidden": 8, "mlp": 6, "heads": 2}
    asked = NetworkSpec(name="unetr", dim=2, in_channels=1, out_channels=2, options=options)
    found = multiply_adds(asked, (32, 32))
    assert found.attention == 12 * 2 * 4 * 4 * 8  # layers, two products of each pair of tokens, channels
    assert found.linear == 12 * 4 * (4 * 8 * 8 + 2 * 8 * 6)  # of each token: queries, keys, values, output; perceptron


def test_the_scan_is_counted_by_both_conventions():
    options = {"width": 16, "depths": (1, 1), "decoder_depths": (1, 1), "state_size": 2}
    vm_unet = NetworkSpec(name="vm_unet", dim=2, in_channels=3, out_channels=2, options=options)
    found = multiply_adds(vm_unet, (32, 32))
    tokens = 2 * 4 * (64 * 32 + 16 * 64)  # down and up, four paths, tokens times inner width of both stages
    assert (found.scan, found.scan_exact) == (tokens * (9 * 2 + 1), tokens * (7 * 2 + 2))
    options = {"features": (4, 6), "blocks": (1, 1), "decoder_blocks": (1,)}
    umamba = NetworkSpec(name="umamba_bot", dim=2, in_channels=1, out_channels=2, options=options)
    found = multiply_adds(umamba, (16, 16))
    assert (found.scan, found.scan_exact) == (64 * 12 * (9 * 16 + 2), 64 * 12 * (7 * 16 + 3))


def test_cost_states_counts_and_claims_side_by_side():
    found = cost("vm_unet", (256, 256), channels=3, classes=1)
    assert found.parameters == 27427561
    assert found.operations.total / 1e9 == pytest.approx(8.25, rel=5e-3)
    assert found.claimed == describe("vm_unet").claimed
    assert 0 < found.inference < found.training
    assert found.measured is None
    assert [claim.parameters for claim in found.claims[:2]] == ["27.43", "22.04"]


@pytest.mark.skipif(not STATUS.exists(), reason="peak memory is measured on Linux alone")
def test_measured_memory_holds_what_is_counted():
    options = {"features": (16, 16)}
    found = cost("unet", (512, 512), options=options, measure=True)
    # Libraries take tens of MiB besides when they are first used, and convolutions some for themselves.
    assert 0.7 * found.inference < found.measured.inference < 2 * found.inference + 2**28
    assert 0.7 * found.training < found.measured.training < 2 * found.training + 2**28
    assert found.measured.inference < found.measured.training


def test_what_cannot_be_measured_is_refused(monkeypatch, tmp_path):
    asked = NetworkSpec(name="unet", dim=2, in_channels=1, out_channels=2, options={"features": (4, 4)})
    with pytest.raises(OptionError, match=r"a pass of unet on \(63, 64\) ended early: .*multiples of"):
        peaks(asked, (63, 64))
    monkeypatch.setattr(measuring, "STATUS", tmp_path / "status")
    with pytest.raises(OptionError, match="peak memory is measured on Linux alone, this is"):
        peaks(asked, (64, 64))


def test_the_command_prints_claims_beside_counts(capsys):
    dispatch(["cost", "vm_unet", "--size", "64x64", "--channels", "3", "--set", "depths=1,1", "decoder_depths=1,1"])
    said = capsys.readouterr().out
    assert "claimed: 22.04 M, 4.11 G at 256 x 256 (quoted in print)" in said
    assert "decoder_depths (2, 9, 2, 2)" in said
    assert "measured" not in said


@pytest.mark.parametrize("name", ["unetr", "umamba_enc"])
def test_a_network_for_one_size_is_counted_for_the_size_of_the_image(name):
    assert cost(name, (32, 64)).network.options["patch"] == (32, 64)


def test_what_cannot_be_counted_is_refused():
    with pytest.raises(OptionError, match=r"an image has 2 or 3 sides of at least one voxel, got \(64,\)"):
        cost("unet", (64,))
    with pytest.raises(OptionError, match="there is no network 'u_net'"):
        cost("u_net", (64, 64))
    with pytest.raises(ShapeError, match="must be multiples of"):
        cost("unet", (63, 64))
