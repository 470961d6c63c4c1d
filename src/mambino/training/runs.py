"""The folder of a run: options, log, resumable state and the two bundles, and whether it may be gone on with."""

import os
import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from mambino.core.options import TrainOptions
from mambino.core.plan import Config, Plan
from mambino.core.provenance import Provenance
from mambino.core.recipe import Recipe
from mambino.core.records import dump, fields_of, from_json, read, record, write, write_text
from mambino.errors import FileFormatError, OptionError, WeightsError
from mambino.training.half import agreement
from mambino.training.loop import Course, Epoch
from mambino.training.state import State, has_state, load_state, save_state
from mambino.weights.bundle import Bundle, load, save

LENGTH = ("epochs", "minutes")
"""Options that say how long a run is."""
KEPT = ("set", "loss", "class_weights", "checkpointing", "compile")
"""Options besides the recipe that a run which goes on has as before."""


@record
class Run:
    """What a run was started with; `options.json` in its folder.

    Attributes:
        format: version of this record.
        options: of `train`, as given.
        name: of the configuration.
        config: the configuration itself.
        precision: the one chosen, where `options` leaves it open.
        training, held_out: names of the cases.
    """

    format: int = 1
    options: TrainOptions
    name: str
    config: Config
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    training: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Folder:
    """Where the files of a run lie."""

    path: Path

    @property
    def options(self) -> Path:
        """What the run was started with."""
        return self.path / "options.json"

    @property
    def log(self) -> Path:
        """One line of JSON an epoch."""
        return self.path / "log.jsonl"

    @property
    def init(self) -> Path:
        """What the network was started from, tensor by tensor, where it was from another."""
        return self.path / "init.json"

    @property
    def state(self) -> Path:
        """All that is needed to go on; `state-before.pt` is the one saved before it."""
        return self.path / "state.pt"

    @property
    def model(self) -> Path:
        """The weights to ship: the last ones, whose rate has fallen to zero; the best where patience ended the run."""
        return self.path / "model.safetensors"

    @property
    def best(self) -> Path:
        """The best weights on validation."""
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        """The last weights."""
        return self.path / "last.safetensors"


def previous(folder: Folder, options: TrainOptions) -> Run | None:
    """Return the run that the folder holds, where there is one to go on with.

    Raises:
        OptionError: there is one, and going on was not asked for.
    """
    if not (folder.options.exists() and has_state(folder.state)):
        return None
    run = read(Run, folder.options)
    if not options.resume:
        raise OptionError(
            f"{folder.path} already holds a run",
            hint="add --resume to go on with it, or remove the folder to start again",
        )
    return run


def as_before(options: TrainOptions, old: Run | None) -> TrainOptions:
    """Return the options of a run that goes on: how it learns need not be said again."""
    if old is None:
        return options
    recipe = options.recipe if options.recipe != "default" else old.options.recipe
    kept = {name: getattr(options, name) or getattr(old.options, name) for name in KEPT}
    return replace(options, recipe=recipe, **kept)


def facts(run: Run) -> dict[str, object]:
    """Return what trackers are told of a run: plain values, no path and no name of a case."""
    options, config = run.options, run.config
    return {
        "configuration": run.name,
        "network": config.network.name,
        "network_options": config.network.options,
        "precision": run.precision,
        "training_cases": len(run.training),
        "held_out_cases": len(run.held_out),
        "patch": config.patch,
        "batch": config.batch,
        "spacing": config.spacing,
        "recipe": asdict(config.recipe),
        **{name: getattr(options, name) for name in ("fold", "folds", "seed", "epochs", "minutes")},
    }


def check_same(old: Run, new: Run, folder: Folder) -> None:
    """Refuse to go on with a run that learns something else.

    Raises:
        OptionError: names the option and both values.
    """
    for name in ("seed", "fold", "folds", "freeze_encoder", "compile"):
        before, now, flag = getattr(old.options, name), getattr(new.options, name), name.replace("_", "-")
        if before != now:
            raise OptionError(
                f"{folder.path} holds a run with --{flag} {before}, it cannot go on with --{flag} {now}",
                hint=f"give --{flag} {before}, or remove the folder to start again",
            )
    hint = "remove the folder to start again with the plan as it is now"
    changed = _difference(old.config, new.config, "") or _difference(old.config.recipe, new.config.recipe, "recipe.")
    if changed:
        name, before, now = changed
        raise OptionError(f"{folder.path} holds a run with {name} {before}, now it is {now}", hint=hint)
    if (old.training, old.held_out) != (new.training, new.held_out):
        raise OptionError(
            f"{folder.path} holds a run on {len(old.training)} + {len(old.held_out)} cases, "
            f"the prepared ones are now {len(new.training)} + {len(new.held_out)}, or others",
            hint=hint,
        )


def ended(folder: Folder, options: TrainOptions) -> bool:
    """Tell whether a folder holds a complete run of the length asked for.

    Raises:
        OptionError: it holds a complete run of another length, and to train it on was not asked for.
    """
    if not (folder.model.exists() and folder.options.exists()):
        return False
    old = read(Run, folder.options)
    for name in LENGTH:
        before, now = getattr(old.options, name), getattr(options, name)
        if before != now and not options.resume:
            raise OptionError(
                f"{folder.path} holds a complete run with {name} {before}, this one has {name} {now}",
                hint="add --resume to train it on, or remove the folder to start again",
            )
    return all(getattr(old.options, name) == getattr(options, name) for name in LENGTH)


def _difference(old: Config | Recipe, new: Config | Recipe, place: str) -> tuple[str, object, object] | None:
    """Return the first field that is another, but for the recipe as a whole: its name, and both values."""
    for name in fields_of(type(old)):
        before, now = getattr(old, name), getattr(new, name)
        if before != now and name != "recipe":
            return place + name, before, now
    return None


def open_run(folder: Folder, run: Run, old: Run | None, state: State, *, writes: bool = True) -> None:
    """Begin a run's folder, or fill `state` from it and cut the log back to the state; one process of all `writes`."""
    if old is None:
        if writes:
            write(run, folder.options)
            write_text("", folder.log)
        return
    go_back(folder, state, writes=writes)
    if any(getattr(old.options, name) != getattr(run.options, name) for name in LENGTH):
        state.total = 0
        if writes:
            write(run, folder.options)


def go_back(folder: Folder, state: State, *, writes: bool = True) -> None:
    """Fill `state` with the last one saved, and cut the log back to it."""
    load_state(state, folder.state)
    if not writes:
        return
    lines = folder.log.read_text(encoding="utf-8").splitlines() if folder.log.exists() else []
    kept = [line for line in lines if number_of(line) <= state.epoch]
    write_text("".join(line + "\n" for line in kept), folder.log)


def log(epoch: Epoch, folder: Folder) -> None:
    """Add a line to the log.

    Raises:
        FileFormatError: the disk is full, or the file cannot be written to.
    """
    try:
        with folder.log.open("a", encoding="utf-8") as file:
            file.write(dump(epoch, indent=None) + "\n")
    except OSError as error:
        raise FileFormatError(
            f"{folder.log} cannot be written: {error.strerror or error}",
            hint="free some space, then go on with --resume",
        ) from None


def keep(folder: Folder, state: State, plan: Plan, run: Run, score: float | None) -> None:
    """Write the state to go on from, and the last weights with their validation Dice, where that is known.

    The log is on the disk first: whoever goes on from the state adds to it.
    """
    with folder.log.open("rb") as file:
        os.fsync(file.fileno())
    save_state(state, folder.state)
    save(bundle(state, plan, run, score), folder.last)


def ship(folder: Folder, course: Course, state: State) -> None:
    """Put the weights of a run that has ended where the user finds them.

    The last validations of a run differ by less than a few cases can tell, and an early one may be good by chance:
    with five cases, weights of the second epoch were "best" of twenty. So the last weights are shipped, which
    nobody has chosen by their score. Only when patience is used up are they past their best.

    Args:
        folder: of the run.
        course: names cases on which masks in bfloat16 are compared with those in float32; and the patience.
        state: tells whether patience is used up.
    """
    early = 0 < course.patience <= state.epoch - state.best_epoch
    chosen = load(folder.best if early and folder.best.exists() else folder.last)
    save(replace(chosen, half=agreement(chosen, course.compared, course.precision.device)), folder.model)


def shipped(folder: Folder) -> bool:
    """Tell whether the weights of a run are in their place, and whole."""
    try:
        return bool(load(folder.model))
    except WeightsError:
        return False


def bundle(state: State, plan: Plan, run: Run, score: float | None) -> Bundle:
    """Return the averaged weights as a bundle, with where they are from."""
    network: nn.Module = state.average
    provenance = Provenance(
        dataset=plan.dataset,
        cases=len(run.training),
        held_out=run.held_out,
        seed=run.options.seed,
        steps=state.step,
        seconds=round(state.seconds, 1),
        score=score,
        versions=versions(),
    )
    return Bundle(network=network, config=run.config, labels=plan.labels, channels=plan.channels, provenance=provenance)


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    return {
        "mambino": version("mambino"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def number_of(line: str) -> int:
    """Return the epoch of a line of the log; a line cut short by a full disk belongs to none."""
    try:
        return int(from_json(line)["number"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return 1 << 60
