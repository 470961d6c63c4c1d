"""Checkpointing changes no bit and keeps less; compiling changes no number beyond rounding."""

import copy

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from mambino.models import build
from mambino.nn.rewiring import checkpoint, compile_methods, stages
from tests.close import assert_close
from tests.models.cases import CASES, sides, spec


def made(name, dim):
    torch.manual_seed(0)
    network = build(spec(name, dim)).train()
    return network, torch.randn(2, 2, *sides(name, dim), generator=torch.Generator().manual_seed(0))


def learnt(network, x):
    """Return outputs, gradients by name and how many bytes were kept for the way back."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no other takes its place
        return tensor

    torch.manual_seed(1)  # of drop path
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        scales = network.scales(x)
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    sum(y.square().mean() for y in scales).backward()
    return scales, {name: p.grad for name, p in network.named_parameters()}, size


@pytest.mark.parametrize(("name", "dim"), CASES)
def test_checkpointing_keeps_less_and_every_bit_is_the_same(name, dim):
    network, x = made(name, dim)
    other = copy.deepcopy(network)
    assert len(stages(other)) > 1
    checkpoint(other)
    assert list(other.state_dict()) == list(network.state_dict())
    scales, gradients, kept = learnt(network, x)
    again, same, less = learnt(other, x)
    assert all(torch.equal(one, two) for one, two in zip(scales, again, strict=True))
    for key, gradient in gradients.items():
        assert (gradient is None and same[key] is None) or torch.equal(gradient, same[key]), key
    for key, buffer in network.named_buffers():
        assert torch.equal(buffer, other.get_buffer(key)), key
    assert less < kept


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_compiled_network_says_the_same():
    network, x = made("unet", 2)
    other = copy.deepcopy(network)
    compile_methods(other)
    scales, gradients, _ = learnt(network, x)
    again, same, _ = learnt(other, x)
    for one, two in zip(scales, again, strict=True):
        assert_close(one, two)
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, same[key], rtol=1e-3, atol=1e-5)
