"""All that a user may turn: one record a verb. Flags, TOML keys and documentation come from here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from mambino.core.plan import Value
from mambino.core.records import record
from mambino.errors import OptionError

Progress = Callable[[int, int, str], None]
"""Called with how many are done, of how many, and what is being worked on."""

Device = Literal["auto", "cpu", "cuda", "mps"]

Tracker = Literal["tensorboard", "mlflow", "wandb"]

RecipeName = Literal[
    "default",
    "lightm_unet",
    "vm_unet",
    "swin_umamba",
    "umamba",
    "nnunet",
    "segresnet",
    "unetr",
    "swin_unetr",
    "swin_unet",
]
"""A way to train; `training.recipes` has them."""


def silent(done: int, total: int, what: str) -> None:
    """Show nothing: the progress of whoever does not ask for it."""


@record
class CheckOptions:
    """Options of `check`.

    Attributes:
        repair: write a repaired copy of the data set to `output`; both or neither.
        output: folder for the copy.
        workers: processes; 0 takes one a core.
    """

    repair: bool = False
    output: Path | None = None
    workers: Annotated[int, Ge(0)] = 0


@record
class PlanOptions:
    """Options of `plan`.

    Attributes:
        memory: training may use so much memory (GiB); what the machine or its container has if not given.
        params: the network may have so many parameters.
        minutes: training may take so long.
        device: where training will run.
        model: plan with this network as the default.
        workers: processes; 0 takes one a core.
    """

    memory: Annotated[float, Gt(0)] | None = None
    params: Annotated[int, Gt(0)] | None = None
    minutes: Annotated[float, Gt(0)] | None = None
    device: Device = "auto"
    model: str | None = None
    workers: Annotated[int, Ge(0)] = 0


@record
class PreprocessOptions:
    """Options of `preprocess`.

    Attributes:
        dims: prepare for 2D, 3D or both, as in "--dims 2 3" after the folder; for the dimension of the plan's default
            configuration if not given.
        workers: processes; 0 takes one a core. Not used with a scheduler: its workers prepare one case each at a time.
        scheduler: address of a Dask scheduler, as in tcp://HOST:8786, whose workers prepare the cases; or "slurm".
    """

    dims: tuple[Literal[2, 3], ...] = ()
    workers: Annotated[int, Ge(0)] = 0
    scheduler: str | None = None


@record
class TrainOptions:
    """Options of `train`.

    Attributes:
        config: "2d", "3d" or a full name of the plan; the plan's default if not given.
        model: network, where the configuration has several.
        fold: part of the training cases to validate on, 0 to folds-1; "all" trains on every case, "all-folds" trains
            a network for each part, one after the other.
        folds: number of parts.
        seed: of folds, weights, sampling and augmentation.
        epochs: stop after so many.
        minutes: fit the schedule to this time (of training, validation included); of each fold.
        patience: stop when validation has not improved for so many epochs; 0 never does.
        validate_every: epochs between validations on whole cases; 0 chooses by the length of the run.
        recipe: how to learn: as the plan has it ("default"), or as a published network was trained.
        set: values of the recipe to change, as in "--set rate=0.01 augmentation=light average=0" after the folder.
        loss: terms of the loss with their weights, as in "--loss dice=1 ce=1 cldice=0.5"; the recipe's if not given.
        class_weights: weights of structures in the loss, as in "--class-weights tumour=3"; 1 for the others.
        precision: "auto" takes bf16 where the processor or GPU gains from it; "fp16" scales the loss.
        checkpointing: keep fewer intermediate results and compute them again: less memory, a third more time.
        compile: compile the network with torch.compile first; needs a C++ compiler on processors.
        device: where to train.
        threads: of the processor; 0 takes all.
        log_to: trackers that get what log.jsonl gets, as in "--log-to tensorboard mlflow"; each is an extra.
        resume: go on with the run from where it stopped.
        init: start from the weights of this bundle: of the same network for other labels or channels, or of a VMamba
            for the networks that are built on it.
        init_slip: take one tensor more into Swin-UMamba, the bias of the norm of the patch embedding, as its
            authors' code does by a slip.
        freeze_encoder: epochs for which the encoder learns nothing; with --init as the recipe says if not given.
        scheduler: address of a Dask scheduler, as in tcp://HOST:8786, one of whose workers trains; or "slurm".
    """

    config: str | None = None
    model: str | None = None
    fold: Annotated[int, Ge(0)] | Literal["all", "all-folds"] = 0
    folds: Annotated[int, Ge(2)] = 5
    seed: Annotated[int, Ge(0)] = 0
    epochs: Annotated[int, Gt(0)] | None = None
    minutes: Annotated[float, Gt(0)] | None = None
    patience: Annotated[int, Ge(0)] = 0
    validate_every: Annotated[int, Ge(0)] = 0
    recipe: RecipeName = "default"
    set: tuple[str, ...] = ()
    loss: tuple[str, ...] = ()
    class_weights: tuple[str, ...] = ()
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    checkpointing: bool = False
    compile: bool = False
    device: Device = "auto"
    threads: Annotated[int, Ge(0)] = 0
    log_to: tuple[Tracker, ...] = ()
    resume: bool = False
    init: Path | None = None
    init_slip: bool = False
    freeze_encoder: Annotated[int, Ge(0)] | None = None
    scheduler: str | None = None


@record
class PretrainOptions:
    """Options of `pretrain`; what is not given is as VMamba was trained on ImageNet.

    Attributes:
        model: a classifier or a backbone.
        set: options of the network, as in --set width=48 depths=2,2,2,2; the paper's values if not given.
        size: side of what the network sees (pixels).
        batch: pictures a step, of all processes together.
        epochs: how many.
        minutes: fit the schedule to this time instead.
        rate: highest learning rate; 1e-3 for a batch of 1024 and in proportion if not given.
        weight_decay: of AdamW, for what is no vector.
        warmup: share of all steps over which the rate rises.
        smoothing: share of a target that is spread over all classes.
        mixup: parameter of the beta distribution; 0 adds no pictures up.
        cutmix: parameter of the beta distribution; 0 cuts none into others.
        randaugment: strength of its two changes, 0 (none) to 10.
        erase: share of pictures of which a part is covered with noise.
        crop: least share of a picture that is cut out.
        averaging: largest share of the averaged weights that a step leaves as it is.
        held_out: share of each class that is tested on, where the folder has no part for that.
        seed: of weights, order and changes.
        precision: "auto" takes bf16 on GPUs that have it.
        device: where to learn.
        threads: of the processor; 0 takes all.
        log_to: trackers that get what log.jsonl gets, as in "--log-to tensorboard mlflow"; each is an extra.
        resume: go on with the run from where it stopped.
    """

    model: str = "vmamba"
    set: tuple[str, ...] = ()
    size: Annotated[int, Ge(32)] = 224
    batch: Annotated[int, Gt(0)] = 128
    epochs: Annotated[int, Gt(0)] = 300
    minutes: Annotated[float, Gt(0)] | None = None
    rate: Annotated[float, Gt(0)] | None = None
    weight_decay: Annotated[float, Ge(0)] = 0.05
    warmup: Annotated[float, Ge(0), Le(0.9)] = 1 / 15
    smoothing: Annotated[float, Ge(0), Le(0.9)] = 0.1
    mixup: Annotated[float, Ge(0)] = 0.8
    cutmix: Annotated[float, Ge(0)] = 1.0
    randaugment: Annotated[float, Ge(0), Le(10)] = 9.0
    erase: Annotated[float, Ge(0), Le(1)] = 0.25
    crop: Annotated[float, Gt(0), Le(1)] = 0.08
    averaging: Annotated[float, Ge(0), Le(1)] = 0.9999
    held_out: Annotated[float, Gt(0), Le(0.9)] = 0.1
    seed: Annotated[int, Ge(0)] = 0
    precision: Literal["auto", "float32", "bf16"] = "auto"
    device: Device = "auto"
    threads: Annotated[int, Ge(0)] = 0
    log_to: tuple[Tracker, ...] = ()
    resume: bool = False


@record
class PredictOptions:
    """Options of `predict`.

    Attributes:
        mirror: average over mirrored inputs along the axes that the bundle allows.
        overlap: of neighbouring windows, as a share of the patch.
        crop: "body" lays windows only over the box round the body in a volume; all else is background.
        probabilities: write class probabilities beside the masks.
        uncertainty: write maps of the entropy and, of several bundles or with `mirror`, of the mutual information.
        largest: names of structures of which the largest piece alone is kept, or "all".
        smallest: "NAME=SIZE": pieces of a structure that are smaller are removed (ml; square mm in 2D, or pixels).
        fill: names of structures whose holes are filled, or "all".
        overwrite: replace masks that other bundles or options have made.
        series: UIDs of the DICOM series to read, one a channel; the largest volume if not given.
        format: "mask" is a file of the image's kind, NIfTI for DICOM; of DICOM also "seg", a segmentation with a bit
            for each label, "seg-labelmap", one with a number a voxel, and "rtstruct", contours for radiotherapy.
        codes: a .toml or .json file with coded names of labels, for DICOM.
        memory: most that the program may take, "4G" or "800M"; nine tenths of what is free if not given.
        precision: of the network.
        device: where to predict.
        threads: of the processor; 0 takes all.
        scheduler: address of a Dask scheduler, as in tcp://HOST:8786, whose workers segment the images; or "slurm".
    """

    mirror: bool = False
    overlap: Annotated[float, Ge(0), Le(0.9)] = 0.5
    crop: Literal["none", "body"] = "none"
    probabilities: bool = False
    uncertainty: bool = False
    largest: tuple[str, ...] = ()
    smallest: tuple[str, ...] = ()
    fill: tuple[str, ...] = ()
    overwrite: bool = False
    series: tuple[str, ...] = ()
    format: Literal["mask", "seg", "seg-labelmap", "rtstruct"] = "mask"
    codes: Path | None = None
    memory: str | None = None
    precision: Literal["auto", "float32", "bf16"] = "auto"
    device: Device = "auto"
    threads: Annotated[int, Ge(0)] = 0
    scheduler: str | None = None


@record
class EvaluateOptions:
    """Options of `evaluate`.

    Attributes:
        tolerance: of the normalised surface distance (mm, or pixels where an image has no spacing).
        images: folder of the images, for the overlays of the report.
        labels: a dataset.json, plan.json or bundle that names the labels; numbers name themselves if not given.
        curves: log.jsonl of a training run, to draw its curves in the report.
        surface: what counts as a surface: voxels at the border, each the same, or pieces weighted by their area.
        workers: processes; 0 takes one a core.
    """

    tolerance: Annotated[float, Gt(0)] = 2.0
    images: Path | None = None
    labels: Path | None = None
    curves: Path | None = None
    surface: Literal["voxel", "surfel"] = "voxel"
    workers: Annotated[int, Ge(0)] = 0


@record
class BestOptions:
    """Options of `best`.

    Attributes:
        mirror: average over mirrored inputs; predicting with what was chosen then does so, too.
        memory: most that the program may take, "4G" or "800M"; nine tenths of what is free if not given.
        precision: of the networks.
        device: where to predict.
        threads: of the processor; 0 takes all.
    """

    mirror: bool = False
    memory: str | None = None
    precision: Literal["auto", "float32", "bf16"] = "auto"
    device: Device = "auto"
    threads: Annotated[int, Ge(0)] = 0


@record
class CalibrateOptions:
    """Options of `calibrate`.

    Attributes:
        device: where to compute.
        threads: of the processor; 0 takes all.
    """

    device: Device = "auto"
    threads: Annotated[int, Ge(0)] = 0


@record
class RunOptions:
    """Options of `run`, the whole path.

    Attributes:
        models: networks to train, one or more, as in "--models unet lightm_unet" after the folder; where there are
            several, validation on training cases chooses.
        minutes: of training, for each network.
        epochs: of training, for each network, instead of a time.
        recipe: how to learn: as the plan has it ("default"), or as a published network was trained; as in "train".
        set: values of the recipe to change, as in "--set rate=0.01 augmentation=light" after the folder.
        loss: terms of the loss with their weights, as in "--loss dice=1 ce=1"; the recipe's if not given.
        memory: training may use so much memory (GiB).
        params: the network may have so many parameters.
        dim: 2, 3, or the plan's choice.
        device: where to train and predict.
        seed: of folds, weights, sampling and augmentation.
        mirror: average predictions over mirrored inputs.
        log_to: trackers that get what log.jsonl gets, as in "--log-to tensorboard mlflow" after the folder.
        scheduler: address of a Dask scheduler, as in tcp://HOST:8786, whose workers prepare, train (a network each) and
            predict; or "slurm".
    """

    models: tuple[str, ...] = ()
    minutes: Annotated[float, Gt(0)] | None = None
    epochs: Annotated[int, Gt(0)] | None = None
    recipe: RecipeName = "default"
    set: tuple[str, ...] = ()
    loss: tuple[str, ...] = ()
    memory: Annotated[float, Gt(0)] | None = None
    params: Annotated[int, Gt(0)] | None = None
    dim: Literal[2, 3] | None = None
    device: Device = "auto"
    seed: Annotated[int, Ge(0)] = 0
    mirror: bool = False
    log_to: tuple[Tracker, ...] = ()
    scheduler: str | None = None


def named_values(words: tuple[str, ...], flag: str = "set", example: str = "depths=2,2,2,2") -> dict[str, Value]:
    """Read name=value: numbers, several with commas between them, lists in brackets for each axis, or text.

    Args:
        words: what stands after the flag.
        flag, example: for the message.

    Raises:
        OptionError: a word is no name=value.
    """

    def value(text: str) -> Any:
        try:
            found = tuple(tuple(v) if isinstance(v, list) else v for v in json.loads(f"[{text}]"))
        except ValueError:
            return text
        return found if len(found) > 1 else found[0]

    wrong = [word for word in words if not all(word.partition("="))]
    if wrong:
        raise OptionError(f"--{flag} takes name=value, got {wrong[0]!r}", hint=f"as in --{flag} {example}")
    return {name: value(text) for name, _, text in (word.partition("=") for word in words)}
