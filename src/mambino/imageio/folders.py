"""Folders of images and masks as data sets (being written: signatures are final)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mambino.core.dataset import Case, Dataset
from mambino.core.image import Image, Segmentation
from mambino.core.records import record


@record
class Problem:
    """What keeps a file out of a data set: kind "missing label", "missing image", "missing channel", "duplicate", "noisy masks", "unreadable"."""

    kind: str
    case: str
    message: str
    remedy: str
    severity: Literal["error", "warning"] = "error"


def open_dataset(path: Path) -> Dataset: ...
def scan_dataset(path: Path) -> tuple[Dataset, tuple[Problem, ...]]: ...
def read_case(case: Case, dataset: Dataset) -> Image: ...
def read_case_images(case: Case, channels: int) -> Image: ...   # the same for a case without a data set (predict)
def read_case_labels(case: Case, dataset: Dataset) -> Segmentation: ...
def find_images(inputs: Sequence[Path], channels: int) -> tuple[Case, ...]: ...
