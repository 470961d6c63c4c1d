"""Everything that changes while a network learns, and how it is kept to go on later."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import SGD, Adam, AdamW, Optimizer

from mambino.core.formats import upgraded
from mambino.core.recipe import Recipe
from mambino.core.records import replacing
from mambino.errors import FileFormatError, MambinoWarning
from mambino.training.schedule import Pace
from mambino.training.validation import Rhythm

FORMAT = 3
SPAN = 9.0
"""The averaged weights look back over about a tenth (1 / (SPAN + 1)) of all steps so far."""


@dataclass(slots=True, eq=False)
class State:
    """A run at some moment. The only thing that `epochs` changes.

    Attributes:
        network: learns.
        average: the same network with a moving average of its weights; validated and kept.
        optimiser: of `network`.
        scaler: of losses, so that gradients in float16 do not vanish; does nothing in other precisions.
        step: steps done.
        total: steps of the whole run; 0 while a time budget has not settled it.
        progress: share of the schedule done.
        epoch: epochs done, validation included.
        seconds: spent so far.
        best, best_epoch: highest validation Dice, and when.
        loss_sum: of the steps of the unfinished epoch.
        loss_count: how many these are.
        setbacks: times that the run went back as a loss or gradient was not finite; each halves the rate.
        rhythm: of validation, once it is known.
        pace: how long things take.
    """

    network: nn.Module
    average: nn.Module
    optimiser: Optimizer
    scaler: GradScaler = field(default_factory=lambda: scaler(torch.device("cpu"), "float32"))
    step: int = 0
    total: int = 0
    progress: float = 0.0
    epoch: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    setbacks: int = 0
    rhythm: Rhythm | None = None
    pace: Pace = Pace()  # noqa: RUF009 - a frozen value


NUMBERS = ("step", "total", "progress", "epoch", "seconds", "best", "best_epoch", "loss_sum", "loss_count", "setbacks")
DIGEST = hashlib.sha256().digest_size
"""Bytes at the end of a file that tell whether those before are whole."""


def optimiser(network: nn.Module, recipe: Recipe) -> Optimizer:
    """Return the optimiser of a recipe; vectors (biases, norms) and what asks for it decay only where it says so."""
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for parameter in network.parameters():
        plain = parameter.ndim >= 2 and not getattr(parameter, "_no_weight_decay", False)
        (decayed if plain or recipe.decay_vectors else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    if recipe.optimiser == "sgd":
        return SGD(groups, lr=recipe.rate, momentum=recipe.momentum, nesterov=recipe.nesterov)
    kind = Adam if recipe.optimiser == "adam" else AdamW
    return kind(groups, lr=recipe.rate, betas=recipe.betas, eps=recipe.eps)


def scaler(device: torch.device, precision: str) -> GradScaler:
    """Return what multiplies losses before the way back, as large as float16 allows, where that is the precision."""
    return GradScaler(device.type, enabled=precision == "fp16")


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, step: int, longest: float) -> None:
    """Move the averaged weights towards those of the network after `step` steps.

    The decay is step / (step + SPAN + 1), `longest` at most, so that the span grows with the run and short
    runs gain too (polynomial decay, Shamir and Zhang 2013). With `longest` 0 they are those of the network.
    """
    decay = min(longest, step / (step + SPAN + 1))
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for mean, now in zip(average.buffers(), network.buffers(), strict=True):
        mean.copy_(now)


def save_state(state: State, path: Path) -> None:
    """Write a state, all of it or nothing; the one before is kept beside it. Tensors and plain values only."""
    content = {
        "format": FORMAT,
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "scaler": state.scaler.state_dict(),
        "numbers": {name: getattr(state, name) for name in NUMBERS},
        "rhythm": asdict(state.rhythm) if state.rhythm else None,
        "pace": asdict(state.pace),
        "random": random_states(),
    }
    packed = BytesIO()  # torch reports a full disk as no OSError, a file does
    torch.save(content, packed)
    packed.write(hashlib.sha256(packed.getbuffer()).digest())
    with replacing(path, older=before(path)) as part:
        part.write_bytes(packed.getbuffer())


def saving_the_end(state: State, path: Path, check: Callable[[], None], *, writes: bool) -> Callable[[], None]:
    """Return a check that first saves the state when its number of steps is settled, or cut: it was measured.

    A run that is killed afterwards does as many steps as one that was not. Of several processes one `writes`.
    """
    saved = state.total

    def look() -> None:
        nonlocal saved
        if writes and state.total != saved:
            save_state(state, path)
            saved = state.total
        check()

    return look


def before(path: Path) -> Path:
    """Return where the state that was saved before the one at `path` lies."""
    return path.with_stem(f"{path.stem}-before")


def has_state(path: Path) -> bool:
    """Tell whether there is a state to go on from."""
    return path.exists() or before(path).exists()


def load_state(state: State, path: Path) -> None:
    """Fill a fresh state with the saved one, random states of torch included; with the one before if it is damaged.

    Raises:
        FileFormatError: both files are missing or damaged, or of another network.
    """
    content = _newest(path)
    try:
        state.network.load_state_dict(content["network"])
        state.average.load_state_dict(content["average"])
        state.optimiser.load_state_dict(content["optimiser"])
        if state.scaler.is_enabled():
            state.scaler.load_state_dict(content["scaler"])
        for name in NUMBERS:
            setattr(state, name, content["numbers"][name])
        state.rhythm = Rhythm(**content["rhythm"]) if content["rhythm"] else None
        state.pace = Pace(**content["pace"])
        set_random_states(content["random"])
    except Exception as error:
        raise _useless(path, error) from error


def _newest(path: Path) -> dict[str, Any]:
    """Return what the newest whole file holds."""
    try:
        return _whole(path)
    except FileFormatError as error:
        if not before(path).exists():
            raise
        found = _whole(before(path))
        why = f"{error}; going on from the state saved before it" if path.exists() else ""
    if why:
        warnings.warn(why, MambinoWarning, stacklevel=3)
    return found


def _whole(path: Path) -> dict[str, Any]:
    """Return what a file holds.

    Raises:
        FileFormatError: it is missing, cut short, changed, or of another version.
    """
    try:
        data = path.read_bytes()
        sound = hashlib.sha256(data[:-DIGEST]).digest() == data[-DIGEST:]
        content = _unpacked(data[:-DIGEST]) if sound else _without_sum(data)
    except Exception as error:
        raise _useless(path, error) from error
    return upgraded("state", content, FORMAT, str(path), "remove the run's folder to start again")


def _unpacked(data: bytes) -> dict[str, Any]:
    content = torch.load(BytesIO(data), weights_only=True, map_location="cpu")
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__}")
    return content


def _without_sum(data: bytes) -> dict[str, Any]:
    """Return what a file of format 1 holds, which had no sum; raise for any other."""
    try:
        content = _unpacked(data)
    except Exception:
        content = {}
    if content.get("format") != 1:
        raise ValueError(f"its {len(data)} bytes are not those that were written")
    return content


def _useless(path: Path, error: Exception) -> FileFormatError:
    why = str(error).splitlines()[0] if str(error) else type(error).__name__
    return FileFormatError(f"{path} cannot be gone on from: {why}", hint="remove the run's folder to start again")


def random_states() -> dict[str, Any]:
    """Return the states of torch's own generators, which dropout draws from."""
    cuda: list[Tensor] = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_states(states: dict[str, Any]) -> None:
    """Set the states of torch's own generators."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
