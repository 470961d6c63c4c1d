"""Networks that compute the same in another way: with fewer results kept, compiled, or partly in other numbers."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.checkpoint import checkpoint as checkpointed

METHODS = ("forward", "scales")
"""What training calls of a network."""


def stages(network: nn.Module) -> list[nn.Module]:
    """Return the outermost parts of a network that make a stage or a block: of lists, or sequences of layers."""
    found: list[nn.Module] = []
    for child in network.children():
        parts = list(child.children())
        if isinstance(child, nn.Sequential) and not any(list(part.children()) for part in parts):
            found.append(child)
        else:
            found += parts if isinstance(child, nn.ModuleList | nn.Sequential) else stages(child)
    return found


def checkpoint(network: nn.Module) -> None:
    """Let each stage keep its input alone, and compute the rest again on the way back (arXiv 1604.06174).

    Outputs and gradients stay the same to the bit, drop path included; names in the state, too.
    """
    for stage in stages(network):
        again = partial(checkpointed, stage.forward, use_reentrant=False, context_fn=partial(_once_and_again, stage))
        stage.forward = again


def compile_methods(network: nn.Module) -> None:
    """Compile what training calls of a network, at its first call and once more for each size of a batch.

    Where a size is left open, as torch does once it has seen two, its compiler fails on some networks (torch 2.13).
    """
    for name in METHODS:
        if hasattr(network, name):
            setattr(network, name, torch.compile(getattr(network, name), dynamic=False))


@contextmanager
def wide(network: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Let layers of these names take, use and give float32 within the block, even inside autocast."""
    layers = [network.get_submodule(name) for name in dict.fromkeys(names)]
    for layer in layers:
        layer.forward = partial(_in_float32, layer.forward)  # hides the method, for as long as it is there
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def halved(network: nn.Module, keep: Iterable[str]) -> nn.Module:
    """Return a copy whose convolutions hold bfloat16, channels last; those of these names hold float32, channels last.

    Instance norms become group norms of single channels, which are the same and do not lay images out anew.
    """
    made, kept = copy.deepcopy(network), set(keep)
    for name, layer in made.named_modules():
        if isinstance(layer, _ConvNd):
            last = torch.channels_last_3d if layer.weight.dim() == 5 else torch.channels_last
            layer.to(dtype=None if name in kept else torch.bfloat16, memory_format=last)  # type: ignore[call-overload]
        elif isinstance(layer, _InstanceNorm):
            layer.forward = partial(_by_channel, layer)  # type: ignore[method-assign]
    return made


def _by_channel(norm: _InstanceNorm, x: Tensor) -> Tensor:
    return nn.functional.group_norm(x, x.shape[1], norm.weight, norm.bias, norm.eps)


def _in_float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float())


def _once_and_again(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _still(stage)


@contextmanager
def _still(stage: nn.Module) -> Iterator[None]:
    """Let no batch normalisation take a batch into its running mean a second time."""
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
