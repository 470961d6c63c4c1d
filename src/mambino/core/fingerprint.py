"""What planning measured of a data set, once."""

from dataclasses import field
from typing import Literal

from mambino.core.records import record


@record
class CaseFacts:
    """Measurements of one training case.

    Attributes:
        id: of the case.
        shape: voxels in the recorded orientation, before cropping.
        cropped: voxels of the box round everything that is not zero.
        spacing: in the recorded orientation (mm, or pixels).
        orientation: as stored, "LPS" say; "" for 2D.
        counts: voxels of each label number, as text keys.
        centres: centre of each label number that occurs, in the recorded orientation, as a share of the
            size of the image: (0.5, 0.5) is its middle.
    """

    id: str
    shape: tuple[int, ...]
    cropped: tuple[int, ...]
    spacing: tuple[float, ...]
    orientation: str
    counts: dict[str, int]
    centres: dict[str, tuple[float, ...]] = field(default_factory=dict)


@record
class Intensity:
    """Foreground intensities of one channel over the whole training set."""

    mean: float
    std: float
    minimum: float
    maximum: float
    median: float
    percentile_00_5: float
    percentile_99_5: float


@record
class Fingerprint:
    """All that planning needs to know of a data set.

    Attributes:
        format: version of this record.
        source: digest of names, sizes and times of all files measured; another digest means measuring again.
        cases: one entry a training case.
        intensities: one entry a channel, over foreground voxels.
        unit: what spacings are measured in.
        orientation: that shapes, spacings and centres are given in, and networks will see; None: as stored.
    """

    format: int = 1
    source: str
    cases: tuple[CaseFacts, ...]
    intensities: tuple[Intensity, ...]
    unit: Literal["mm", "pixel"]
    orientation: str | None = None
