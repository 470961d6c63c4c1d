"""All that a user may turn: one record a verb. Flags, TOML keys and documentation come from here."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from mambino.core.records import record

Progress = Callable[[int, int, str], None]
"""Called with how many are done, of how many, and what is being worked on."""

Device = Literal["auto", "cpu", "cuda", "mps"]


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
        workers: processes; 0 takes one a core.
    """

    dims: tuple[Literal[2, 3], ...] = ()
    workers: Annotated[int, Ge(0)] = 0


@record
class TrainOptions:
    """Options of `train`.

    Attributes:
        config: "2d", "3d" or a full name of the plan; the plan's default if not given.
        model: network, where the configuration has several.
        fold: part of the training cases to validate on, 0 to folds-1; "all" trains on every case.
        folds: number of parts.
        seed: of folds, weights, sampling and augmentation.
        epochs: stop after so many.
        minutes: fit the schedule to this time (of training, validation included).
        patience: stop when validation has not improved for so many epochs; 0 never does.
        validate_every: epochs between validations on whole cases; 0 chooses by the length of the run.
        precision: "auto" takes bf16 where the processor or GPU gains from it.
        device: where to train.
        threads: of the processor; 0 takes all.
        resume: go on with the run from where it stopped.
    """

    config: str | None = None
    model: str | None = None
    fold: Annotated[int, Ge(0)] | Literal["all"] = 0
    folds: Annotated[int, Ge(2)] = 5
    seed: Annotated[int, Ge(0)] = 0
    epochs: Annotated[int, Gt(0)] | None = None
    minutes: Annotated[float, Gt(0)] | None = None
    patience: Annotated[int, Ge(0)] = 0
    validate_every: Annotated[int, Ge(0)] = 0
    precision: Literal["auto", "float32", "bf16"] = "auto"
    device: Device = "auto"
    threads: Annotated[int, Ge(0)] = 0
    resume: bool = False


@record
class PredictOptions:
    """Options of `predict`.

    Attributes:
        mirror: average over mirrored inputs along the axes that the bundle allows.
        overlap: of neighbouring windows, as a share of the patch.
        probabilities: write class probabilities beside the masks.
        overwrite: replace masks that other bundles or options have made.
        series: UIDs of the DICOM series to read, one a channel; the largest volume if not given.
        format: "mask" is a file of the image's kind, NIfTI for DICOM; of DICOM also "seg", a segmentation with a bit
            for each label, "seg-labelmap", one with a number a voxel, and "rtstruct", contours for radiotherapy.
        codes: a .toml or .json file with coded names of labels, for DICOM.
        precision: of the network.
        device: where to predict.
        threads: of the processor; 0 takes all.
    """

    mirror: bool = False
    overlap: Annotated[float, Ge(0), Le(0.9)] = 0.5
    probabilities: bool = False
    overwrite: bool = False
    series: tuple[str, ...] = ()
    format: Literal["mask", "seg", "seg-labelmap", "rtstruct"] = "mask"
    codes: Path | None = None
    precision: Literal["auto", "float32", "bf16"] = "auto"
    device: Device = "auto"
    threads: Annotated[int, Ge(0)] = 0


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
class RunOptions:
    """Options of `run`, the whole path.

    Attributes:
        models: networks to train, one or more, as in "--models unet lightm_unet" after the folder; where there are
            several, validation on training cases chooses.
        minutes: of training, for each network.
        epochs: of training, for each network, instead of a time.
        memory: training may use so much memory (GiB).
        params: the network may have so many parameters.
        dim: 2, 3, or the plan's choice.
        device: where to train and predict.
        seed: of folds, weights, sampling and augmentation.
        mirror: average predictions over mirrored inputs.
    """

    models: tuple[str, ...] = ()
    minutes: Annotated[float, Gt(0)] | None = None
    epochs: Annotated[int, Gt(0)] | None = None
    memory: Annotated[float, Gt(0)] | None = None
    params: Annotated[int, Gt(0)] | None = None
    dim: Literal[2, 3] | None = None
    device: Device = "auto"
    seed: Annotated[int, Ge(0)] = 0
    mirror: bool = False
