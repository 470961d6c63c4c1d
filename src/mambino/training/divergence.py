"""Where a training that went astray became infinite."""

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mambino.errors import Error
from mambino.training.loss import scales_of
from mambino.training.precision import Precision
from mambino.training.processes import ALONE, Processes
from mambino.training.state import State


class DivergedError(Error):
    """A loss or gradient is not finite."""


def diverged(
    state: State,
    images: Tensor,
    precision: Precision,
    terms: dict[str, float],
    all_: Processes = ALONE,
    *,
    deep: bool = False,
) -> DivergedError:
    """Return the error for a loss or gradient that is not finite: which step, which terms, which layer first.

    The weights are those before the step: they are finite, and so are those of the last saved state.
    """
    parts = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
    what = "the gradient" if all(map(isfinite, terms.values())) else "the loss"
    seen = all_.each_text(
        _first_output(state.network, images, precision, deep=deep)
    )  # each process looks at its own images
    place = next(filter(None, seen), "") or _first_gradient(state.network)
    return DivergedError(
        f"{what} is not finite at step {state.step + 1} ({parts}); the first value that is not finite is in {place}",
        hint="train with --precision float32, or lower recipe.rate in plan.json",
    )


def _first_output(network: nn.Module, images: Tensor, precision: Precision, *, deep: bool) -> str:
    """Return the first place, in the order of computing, with a value that is not finite; "" if there is none."""
    if not torch.isfinite(images).all():
        return f"the images of the batch ({_spread(images)})"
    for name, parameter in network.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"the parameter {name} ({_spread(parameter)})"
    places: list[str] = []
    hooks = [hook for name, module in network.named_modules() for hook in _watched(network, name, module, places)]
    try:
        with torch.no_grad(), precision.autocast():
            scales_of(network, images, deep=deep)
    finally:
        for hook in hooks:
            hook.remove()
    return places[0] if places else ""


def _watched(network: nn.Module, name: str, module: nn.Module, places: list[str]) -> tuple[RemovableHandle, ...]:
    """Note the first of what a module is given, and gives, that is not finite.

    Those inside a module are asked before its own output is. What a module is given and no other one gave was computed
    between modules, by the one that it is part of: a scan, or a sum.
    """
    outer = name.rpartition(".")[0]
    this, around = (f"{one or 'the network'} ({type(network.get_submodule(one)).__name__})" for one in (name, outer))

    def given(_module: nn.Module, inputs: tuple[object, ...]) -> None:
        bad = _not_finite(inputs)
        if bad and not places:
            places.append(f"what {around} gives to {this}: {_spread(bad[0])}")

    def made(_module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        bad = _not_finite(output if isinstance(output, tuple | list) else (output,))
        if bad and not places:
            before = ", ".join(_spread(x) for x in inputs if isinstance(x, Tensor))
            places.append(f"the output of {this}: {_spread(bad[0])}, from {before or 'no tensor'}")

    return module.register_forward_pre_hook(given), module.register_forward_hook(made)


def _not_finite(values: Sequence[object]) -> list[Tensor]:
    return [x for x in values if isinstance(x, Tensor) and not torch.isfinite(x).all()]


def _spread(x: Tensor) -> str:
    """Return the type and the spread of the finite numbers of a tensor, and how many are not."""
    finite = x.detach()[torch.isfinite(x)].double()
    kind = str(x.dtype).removeprefix("torch.")
    if not len(finite):
        return f"{kind}, none of {x.numel()} finite"
    some = "" if len(finite) == x.numel() else f", {x.numel() - len(finite)} of {x.numel()} not finite"
    return f"{kind} {finite.min().item():.3g} to {finite.max().item():.3g}, mean {finite.mean().item():.3g}{some}"


def _first_gradient(network: nn.Module) -> str:
    bad = [
        (name, p.grad)
        for name, p in network.named_parameters()
        if p.grad is not None and not torch.isfinite(p.grad).all()
    ]
    # The way back starts at the last layer.
    return f"the gradient of {bad[-1][0]} ({_spread(bad[-1][1])})" if bad else "the loss"
