"""Where a training that went astray became infinite."""

from collections.abc import Callable
from math import isfinite

import torch
from torch import Tensor, nn

from mambino.errors import Error
from mambino.training.precision import Precision
from mambino.training.state import State


def diverged(state: State, images: Tensor, precision: Precision, dice: float, entropy: float) -> Error:
    """Return the error for a loss or gradient that is not finite: which step, which parts, which layer first.

    The weights are those before the step: they are finite, and so are those of the last saved state.
    """
    parts = f"1 - Dice {dice:.4g}, cross-entropy {entropy:.4g}"
    what = "the gradient" if isfinite(dice) and isfinite(entropy) else "the loss"
    place = _first_output(state.network, images, precision) or _first_gradient(state.network)
    return Error(
        f"{what} is not finite at step {state.step + 1} ({parts}); the first value that is not finite is in {place}",
        hint="train with --precision float32, or lower recipe.rate in plan.json",
    )


def _first_output(network: nn.Module, images: Tensor, precision: Precision) -> str:
    """Return the first place, in the order of computing, with a value that is not finite; "" if there is none."""
    if not torch.isfinite(images).all():
        return "the images of the batch"
    for name, parameter in network.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"the parameter {name}"
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


def _noting(places: list[str], place: str) -> Callable[[nn.Module, object, object], None]:
    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        tensors = output if isinstance(output, tuple) else (output,)
        if any(isinstance(t, Tensor) and not torch.isfinite(t).all() for t in tensors):
            places.append(place)

    return note


def _first_gradient(network: nn.Module) -> str:
    names = [name for name, p in network.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    # The way back starts at the last layer.
    return f"the gradient of {names[-1]}" if names else "the loss"
