"""Mamba U-Nets that segment medical images on any machine.

The verbs, in the order of the path: `check`, `plan`, `preprocess`, `train`, `predict`, `evaluate`; `run` strings them
together. `pretrain` makes what `train` may start from, `calibrate` learns how far the probabilities of what it has made
can be believed, `best` chooses among all that was trained. Each is a command of the same name. Names cost nothing until
they are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mambino.core.dataset import Case, Dataset
    from mambino.core.grid import Grid
    from mambino.core.image import Image, Segmentation
    from mambino.core.labels import Labels
    from mambino.core.options import (
        BestOptions,
        CalibrateOptions,
        CheckOptions,
        EvaluateOptions,
        PlanOptions,
        PredictOptions,
        PreprocessOptions,
        PretrainOptions,
        RunOptions,
        TrainOptions,
    )
    from mambino.core.plan import Config, NetworkSpec, Plan
    from mambino.diagnosis import doctor
    from mambino.errors import (
        DataError,
        Error,
        FileFormatError,
        MissingExtraError,
        OptionError,
        ShapeError,
        WeightsError,
    )
    from mambino.evaluation import evaluate
    from mambino.imageio import read_image, read_labels, write_labels
    from mambino.inference import predict
    from mambino.inspection import check
    from mambino.models import build, list_models
    from mambino.models.cost import cost
    from mambino.ops.selective_scan import selective_scan
    from mambino.planning import plan
    from mambino.preprocessing import preprocess
    from mambino.selection import best
    from mambino.training import train
    from mambino.training.calibration import calibrate
    from mambino.training.pretraining import pretrain
    from mambino.weights.bundle import info
    from mambino.weights.conversion import convert
    from mambino.workflow import run

_HOME = {
    "mambino.core.dataset": ("Case", "Dataset"),
    "mambino.core.grid": ("Grid",),
    "mambino.core.image": ("Image", "Segmentation"),
    "mambino.core.labels": ("Labels",),
    "mambino.core.options": (
        "BestOptions",
        "CalibrateOptions",
        "CheckOptions",
        "EvaluateOptions",
        "PlanOptions",
        "PredictOptions",
        "PreprocessOptions",
        "PretrainOptions",
        "RunOptions",
        "TrainOptions",
    ),
    "mambino.core.plan": ("Config", "NetworkSpec", "Plan"),
    "mambino.diagnosis": ("doctor",),
    "mambino.errors": (
        "DataError",
        "Error",
        "FileFormatError",
        "MissingExtraError",
        "OptionError",
        "ShapeError",
        "WeightsError",
    ),
    "mambino.evaluation": ("evaluate",),
    "mambino.imageio": ("read_image", "read_labels", "write_labels"),
    "mambino.inference": ("predict",),
    "mambino.inspection": ("check",),
    "mambino.models": ("build", "list_models"),
    "mambino.models.cost": ("cost",),
    "mambino.ops.selective_scan": ("selective_scan",),
    "mambino.planning": ("plan",),
    "mambino.preprocessing": ("preprocess",),
    "mambino.selection": ("best",),
    "mambino.training": ("train",),
    "mambino.training.calibration": ("calibrate",),
    "mambino.training.pretraining": ("pretrain",),
    "mambino.weights.bundle": ("info",),
    "mambino.weights.conversion": ("convert",),
    "mambino.workflow": ("run",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [  # noqa: RUF022 - in the order of the path
    "check", "plan", "preprocess", "train", "calibrate", "best", "predict", "evaluate", "run", "pretrain",
    "list_models", "cost", "convert", "info", "doctor",
    "CheckOptions", "PlanOptions", "PreprocessOptions", "TrainOptions", "CalibrateOptions", "BestOptions",
    "PredictOptions", "EvaluateOptions", "RunOptions", "PretrainOptions",
    "Grid", "Image", "Segmentation", "Labels", "Case", "Dataset", "Plan", "Config", "NetworkSpec",
    "read_image", "read_labels", "write_labels", "build", "selective_scan",
    "Error", "DataError", "FileFormatError", "MissingExtraError", "OptionError", "ShapeError", "WeightsError",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _MODULE:
        raise AttributeError(f"module 'mambino' has no attribute {name!r}")
    return getattr(import_module(_MODULE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
