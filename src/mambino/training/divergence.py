"""Where a training that went astray became infinite."""

from collections.abc import Callable
from math import isfinite

import torch
from torch import Tensor, nn

from mambino.errors import Error
from mambino.training.precision import Precision
from mambino.training.processes import ALONE, Processes
from mambino.training.state import State


class DivergedError(Error):
    """A loss or gradient is not finite."""


def diverged(
    state: State, images: Tensor, precision: Precision, terms: dict[str, float], all_: Processes = ALONE
) -> DivergedError:
    """Return the error for a loss or gradient that is not finite: which step, which terms, which layer first.

    The weights are those before the step: they are finite, and so are those of the last saved state.
    """
    parts = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
    what = "the gradient" if all(map(isfinite, terms.values())) else "the loss"
    seen = all_.each_text(_first_output(state.network, images, precision))  # each process looks at its own images
    place = next(filter(None, seen), "") or _first_gradient(state.network)
    return DivergedError(
        f"{what} is not finite at step {state.step + 1} ({parts}); the first value that is not finite is in {place}",
        hint="train with --precision float32, or lower recipe.rate in plan.json",
    )


def _first_output(network: nn.Module, images: Tensor, precision: Precision) -> str:
    """Return the first place, in the order of computing, with a value that is not finite; "" if there is none."""
    if not torch.isfinite(images).all():
        return f"the images of the batch ({_spread(images)})"
    for name, parameter in network.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"the parameter {name} ({_spread(parameter)})"
    places: list[str] = []
    hooks = [
        module.register_forward_hook(_noting(places, f"the output of {name} ({type(module).__name__})"))
        for name, module in network.named_modules()
        if not list(module.children())
    ]
    try:
        with torch.no_grad(), precision.autocast():
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return places[0] if places else ""


def _noting(places: list[str], place: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
    def note(_module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        tensors = output if isinstance(output, tuple) else (output,)
        bad = [t for t in tensors if isinstance(t, Tensor) and not torch.isfinite(t).all()]
        if bad and not places:
            given = ", ".join(_spread(x) for x in inputs if isinstance(x, Tensor))
            places.append(f"{place}: {_spread(bad[0])}, from {given or 'no tensor'}")

    return note


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
