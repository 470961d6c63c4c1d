"""From pictures in folders by class to an encoder that others start from."""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from mambino.core import machine
from mambino.core.labels import Labels
from mambino.core.options import PretrainOptions, named_values
from mambino.core.plan import Config, NetworkSpec, Normalise
from mambino.core.provenance import Provenance, versions
from mambino.core.recipe import Recipe
from mambino.core.records import checked, dump, read, record, unwritable, write, write_text
from mambino.errors import OptionError
from mambino.models import build, describe
from mambino.nn.device import choose_device, keep_allocations
from mambino.training.interrupt import Stopped, after_the_step
from mambino.training.precision import Precision
from mambino.training.pretraining.loop import Lesson, PretrainEpoch, lessons
from mambino.training.pretraining.pictures import Batches, Look, Pictures, find_pictures
from mambino.training.processes import Processes, processes
from mambino.training.runs import number_of
from mambino.training.state import State, has_state, load_state, optimiser, save_state, saving_the_end
from mambino.training.tracking import tracked
from mambino.weights.bundle import Bundle, save

SAVE_EVERY = 60.0
"""Seconds between two saved states; one is also saved at the end."""
CLIP = 5.0
"""Largest norm of a gradient, as Swin and VMamba have it."""


@record
class Pretraining:
    """What a run was started with; `options.json` in its folder.

    Attributes:
        format: version of this record.
        options: as given.
        classes: names of the classes.
        training, held_out: how many pictures.
    """

    format: int = 1
    options: PretrainOptions
    classes: tuple[str, ...]
    training: int
    held_out: int


def ignore(epoch: PretrainEpoch) -> None:
    """Show nothing."""


def pretrain(
    folder: Path,
    output: Path,
    options: PretrainOptions = PretrainOptions(),
    *,
    on_epoch: Callable[[PretrainEpoch], None] = ignore,
) -> Path:
    """Teach a network to tell the classes of pictures, for `train --init` to start from.

    The recipe is that of VMamba on ImageNet (configs of MzeroMiko/VMamba, after Swin, arXiv 2103.14030): AdamW, a
    cosine after a warm-up, smoothed targets, mixup and CutMix, RandAugment, covered parts, averaged weights. Started by
    `torchrun`, its processes learn from one batch together. `output` then holds `options.json`, `log.jsonl` (one line
    an epoch), `state.pt` (to go on with `resume`) and `model.safetensors`. Ctrl-C finishes the step, saves, and
    raises KeyboardInterrupt.

    Args:
        folder: `train` and `val` (or `test`) with a folder of pictures a class, or those folders themselves.
        output: where the run lies.
        options: what to learn, and for how long.
        on_epoch: told each epoch, in the first process.

    Returns:
        The path of the bundle: the classifier, or the backbone without the layer that told the classes.

    Raises:
        DataError: the folder has no two classes, a class is empty, or a picture cannot be read.
        OptionError: the network cannot be pretrained or does not take such options; or `output` holds a run.
        Error: the loss became infinite.
    """
    options, began = checked(options), time.perf_counter()
    pictures = find_pictures(folder, options.held_out, options.seed)
    spec = _spec(options, len(pictures.classes))
    run = Pretraining(
        options=options,
        classes=pictures.classes,
        training=len(pictures.training),
        held_out=len(pictures.held_out),
    )
    going_on = _going_on(output, run)
    device = choose_device(options.device)
    keep_allocations()
    torch.set_num_threads(options.threads or machine.cores())
    with (
        torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []),
        processes(device) as all_,
    ):
        if options.minutes and all_.count > 1:
            raise OptionError(
                f"--minutes {options.minutes:g} with {all_.count} processes: each would settle another number of steps",
                hint="give --epochs",
            )
        torch.manual_seed(options.seed)
        network = _classifier(spec, options.size).to(device)
        average = copy.deepcopy(network).requires_grad_(False)
        state = State(network=network, average=average, optimiser=optimiser(network, _recipe(options)))
        torch.manual_seed(options.seed + 1 + all_.rank)
        if going_on:
            load_state(state, output / "state.pt")
            if _longer(output, options):
                state.total = 0
        if all_.rank == 0:
            _open(output, run, state)
        if not state.total:  # a settled run does as many steps however often it is started
            state.seconds += time.perf_counter() - began
        lesson = _lesson(pictures, options, device, all_)
        told = tracked(options.log_to if all_.first else (), output, f"pretraining {spec.name}", _facts(run))
        with after_the_step() as check, told as tell:
            _learn(state, lesson, output, spec, run, check=check, on_epoch=on_epoch, tell=tell)
    return output / "model.safetensors"


def _learn(
    state: State,
    lesson: Lesson,
    output: Path,
    spec: NetworkSpec,
    run: Pretraining,
    *,
    check: Callable[[], None],
    on_epoch: Callable[[PretrainEpoch], None],
    tell: Callable[[PretrainEpoch], None],
) -> None:
    """Run the loop; the first process logs, saves and shows."""
    first, saved, accuracy = lesson.processes.rank == 0, time.perf_counter(), None
    check = saving_the_end(state, output / "state.pt", check, writes=first and bool(run.options.minutes))
    try:
        for epoch in lessons(state, lesson, check):
            accuracy = epoch.accuracy
            if not first:
                continue
            _log(epoch, output / "log.jsonl")
            tell(epoch)
            on_epoch(epoch)
            if time.perf_counter() - saved > SAVE_EVERY:
                save_state(state, output / "state.pt")
                saved = time.perf_counter()
    except Stopped:
        if first:
            save_state(state, output / "state.pt")
        raise
    if first and (accuracy is not None or not (output / "model.safetensors").exists()):
        save_state(state, output / "state.pt")
        save(_bundle(state, spec, run, accuracy), output / "model.safetensors")


def _log(epoch: PretrainEpoch, path: Path) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(dump(epoch, indent=None) + "\n")
    except OSError as error:
        raise unwritable(path, error) from None


def _facts(run: Pretraining) -> dict[str, object]:
    """Return what trackers are told of a run: options and numbers, no path."""
    return asdict(run.options) | {"classes": len(run.classes), "training": run.training, "held_out": run.held_out}


def _spec(options: PretrainOptions, classes: int) -> NetworkSpec:
    kind = describe(options.model).kind
    if kind == "segmentation":
        raise OptionError(
            f"{options.model} makes masks; pretrain takes what such networks are built on",
            hint="vmamba for VM-UNet and Swin-UMamba; `mambino models` names the classifiers and backbones",
        )
    given = named_values(options.set)
    return NetworkSpec(name=options.model, dim=2, in_channels=3, out_channels=classes, options=given)


class Pooled(nn.Module):
    """A backbone with a layer that tells classes from the mean of its coarsest features."""

    def __init__(self, backbone: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [b k] of images [b c h w]."""
        features: Tensor = self.backbone.scales(x)[-1]  # type: ignore[operator]
        logits: Tensor = self.head(features.flatten(2).mean(2))
        return logits


def _classifier(spec: NetworkSpec, size: int) -> nn.Module:
    if describe(spec.name).kind == "classifier":
        return build(spec)
    with torch.device("meta"):
        channels = build(spec).scales(torch.zeros(1, spec.in_channels, size, size))[-1].shape[1]  # type: ignore[operator]
    return Pooled(build(spec), channels, spec.out_channels)


def _recipe(options: PretrainOptions) -> Recipe:
    return Recipe(rate=_peak(options), weight_decay=options.weight_decay, clip=CLIP)


def _peak(options: PretrainOptions) -> float:
    """Return the highest rate: 1e-3 for a batch of 1024, and as much less as the batch is smaller."""
    return options.rate or 1e-3 * options.batch / 1024


def _lesson(pictures: Pictures, options: PretrainOptions, device: torch.device, all_: Processes) -> Lesson:
    look = Look(
        size=options.size,
        crop=options.crop,
        magnitude=options.randaugment,
        erase=options.erase,
        mixup=options.mixup,
        cutmix=options.cutmix,
        smoothing=options.smoothing,
    )
    size = min(options.batch, len(pictures.training))
    if size < all_.count:
        raise OptionError(f"a batch of {size} pictures cannot be shared by {all_.count} processes")
    return Lesson(
        batches=Batches(pictures.training, len(pictures.classes), size, look, options.seed, all_),
        held_out=pictures.held_out,
        size=options.size,
        peak=_peak(options),
        warmup=options.warmup,
        clip=CLIP,
        averaging=options.averaging,
        precision=Precision(device, _numbers(options, device)),
        processes=all_,
        epochs=options.epochs,
        budget=60 * options.minutes if options.minutes else None,
        workers=max(1, min(8, machine.cores() - 1)),
    )


def _numbers(options: PretrainOptions, device: torch.device) -> Literal["float32", "bf16"]:
    if options.precision != "auto":
        return options.precision
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


_LENGTH = ("epochs", "minutes", "resume", "device", "threads", "log_to")


def _going_on(output: Path, run: Pretraining) -> bool:
    """Tell whether the folder holds a run to go on with; refuse one that learns something else."""
    if not ((output / "options.json").exists() and has_state(output / "state.pt")):
        return False
    if not run.options.resume:
        raise OptionError(
            f"{output} already holds a run",
            hint="add --resume to go on with it, or remove the folder to start again",
        )
    old = read(Pretraining, output / "options.json")
    for name in PretrainOptions.__slots__:  # type: ignore[attr-defined]
        before, now = getattr(old.options, name), getattr(run.options, name)
        if name not in _LENGTH and before != now:
            flag = name.replace("_", "-")
            raise OptionError(
                f"{output} holds a run with --{flag} {before}, it cannot go on with --{flag} {now}",
                hint="give it as it was, or remove the folder to start again",
            )
    if (old.classes, old.training) != (run.classes, run.training):
        raise OptionError(
            f"{output} holds a run on {old.training} pictures of {len(old.classes)} classes, there are now "
            f"{run.training} of {len(run.classes)}, or others",
            hint="remove the folder to start again",
        )
    return True


def _longer(output: Path, options: PretrainOptions) -> bool:
    old = read(Pretraining, output / "options.json").options
    return (old.epochs, old.minutes) != (options.epochs, options.minutes)


def _open(output: Path, run: Pretraining, state: State) -> None:
    """Begin a run's folder, or cut the log of one that goes on back to its state."""
    output.mkdir(parents=True, exist_ok=True)
    path = output / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if state.step and path.exists() else []
    kept = [line for line in lines if number_of(line) <= state.epoch]
    write_text("".join(line + "\n" for line in kept), path)
    write(run, output / "options.json")


def _bundle(state: State, spec: NetworkSpec, run: Pretraining, accuracy: float | None) -> Bundle:
    """Return the averaged weights; its labels are the classes, the first of the outputs being label 1."""
    network: nn.Module = state.average.backbone if isinstance(state.average, Pooled) else state.average
    side = run.options.size
    config = Config(
        dim=2,
        spacing=(1.0, 1.0),
        crop=False,
        normalise=(Normalise(scheme="none"),) * 3,
        shape=(side, side),
        patch=(side, side),
        batch=run.options.batch,
        network=spec,
        recipe=_recipe(run.options),
    )
    provenance = Provenance(
        dataset=f"pictures of {len(run.classes)} classes",
        cases=run.training,
        seed=run.options.seed,
        steps=state.step,
        seconds=round(state.seconds, 1),
        versions=versions(),
        accuracy=accuracy,
    )
    labels = Labels(names={name: (number,) for number, name in enumerate(run.classes, 1)})
    return Bundle(network=network.eval(), config=config, labels=labels, channels=("R", "G", "B"), provenance=provenance)
