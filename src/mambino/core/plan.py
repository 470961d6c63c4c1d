"""What planning chose: how images are prepared, which network learns from them, and how."""

from math import inf
from pathlib import Path
from typing import Literal

from mambino.core.grid import directions
from mambino.core.labels import Labels
from mambino.core.recipe import Recipe
from mambino.core.records import read, record
from mambino.errors import DataError, OptionError

Value = int | float | str | bool | tuple[int, ...] | tuple[tuple[int, ...], ...] | None

LARGEST = 2**14
"""Of any number of a network; more is a slip, or a file that is meant to take all memory."""


@record
class NetworkSpec:
    """A network by name with its options, all plain values.

    Attributes:
        name: a key of `models.MODELS`.
        dim: 2 or 3.
        options: keyword arguments of its constructor; what is left out has the paper's value.
    """

    name: str
    dim: int
    in_channels: int
    out_channels: int
    options: dict[str, Value]

    def __post_init__(self) -> None:
        if min(self.in_channels, self.out_channels) < 1:
            raise OptionError(
                f"a network needs channels in and out, got in_channels {self.in_channels} "
                f"and out_channels {self.out_channels}"
            )
        for name, value in (
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            *self.options.items(),
        ):
            if _largest(value) > LARGEST:
                raise OptionError(f"numbers of a network are at most {LARGEST}, got {name} {value}")


@record
class Normalise:
    """How one channel is scaled.

    Attributes:
        scheme: "ct": clip to [lower, upper], subtract mean, divide by std, all of the training set's
            foreground; "zscore": subtract the image's own mean, divide by its own deviation;
            "rgb": divide by 255; "range": the image's own least value, of all channels with this scheme, becomes 0,
            its largest 255; "none": as it is.
        inside: for "zscore", statistics over the non-zero voxels only, and zero stays zero outside.
    """

    scheme: Literal["ct", "zscore", "rgb", "range", "none"]
    mean: float = 0.0
    std: float = 1.0
    lower: float = 0.0
    upper: float = 0.0
    inside: bool = False

    def __post_init__(self) -> None:
        if self.lower > self.upper or not self.std >= 0:
            raise OptionError(
                f"a scheme needs lower <= upper and std >= 0, got lower {self.lower}, upper {self.upper} "
                f"and std {self.std}"
            )


@record
class Resample:
    """How voxels move between grids: spline orders, and whether the coarse axis is treated apart.

    Attributes:
        image_order: spline order for images, 0 to 3.
        label_order: for masks (each label by itself, arg-max) and for class scores on the way back.
        separate_axis: treat the coarsest axis by itself with order `separate_order`; "auto" where its
            spacing exceeds the others by more than 3.
    """

    image_order: int = 3
    label_order: int = 1
    separate_axis: Literal["auto", "yes", "no"] = "auto"
    separate_order: int = 0

    def __post_init__(self) -> None:
        for name in ("image_order", "label_order", "separate_order"):
            if getattr(self, name) not in range(4):
                raise OptionError(f"{name} must be 0 to 3, got {getattr(self, name)}")


@record
class Config:
    """One way to see the data: everything from a file to the network and back.

    Attributes:
        dim: of the network, 2 or 3.
        spacing: of the grid the network sees, `dim` entries, slowest axis first (mm, or pixels).
        orientation: axes are turned to it before anything else, "RAS" say; None: as stored.
        slice_axis: for dim 2 on volumes, the axis (after turning) that slices are taken along; it keeps
            its own spacing. None: the images themselves have `dim` axes.
        axes: for dim 3, the axes (after turning) in the order in which the network reads them, slowest first; all
            that follows counts axes in this order. Empty: as they are.
        crop: cut away the border of zeros before resampling.
        normalise: one entry a channel.
        mirror: spatial axes (0 is the slowest of the patch) that may be mirrored in training and testing.
        swap: pairs of output channels to exchange when the left-right axis is mirrored: paired organs.
        swap_axis: the left-right axis that `swap` belongs to.
        shape: median size of a prepared case (voxels).
        patch: what the network sees at once (voxels), `dim` entries.
        batch: patches a step.
        memory: expected peak of training (GiB).
        step: expected duration of a training step on the planned device (s).
    """

    dim: int
    spacing: tuple[float, ...]
    orientation: str | None = None
    slice_axis: int | None = None
    axes: tuple[int, ...] = ()
    crop: bool = True
    normalise: tuple[Normalise, ...]
    resample: Resample = Resample()
    mirror: tuple[int, ...] = ()
    swap: tuple[tuple[int, int], ...] = ()
    swap_axis: int | None = None
    shape: tuple[int, ...]
    patch: tuple[int, ...]
    batch: int
    network: NetworkSpec
    recipe: Recipe
    memory: float = 0.0
    step: float = 0.0

    def __post_init__(self) -> None:
        if self.dim not in (2, 3):
            raise OptionError(f"a configuration has 2 or 3 axes, got dim {self.dim}")
        for name, values in (("spacing", self.spacing), ("patch", self.patch), ("shape", self.shape)):
            if len(values) != self.dim or not all(0 < value < inf for value in values):
                raise OptionError(f"{name} needs {self.dim} positive entries, got {values}")
        if min(self.spacing) < 1e-6:
            raise OptionError(f"spacing is at least 1e-06, got {self.spacing}")
        if self.batch < 1:
            raise OptionError(f"batch must be at least 1, got {self.batch}")
        if self.network.dim != self.dim:
            raise OptionError(f"a configuration of dim {self.dim} holds a network of dim {self.network.dim}")
        if len(self.normalise) != self.network.in_channels:
            raise OptionError(
                f"normalise needs an entry for each of {self.network.in_channels} channels, got {len(self.normalise)}"
            )
        self._check_axes()
        self._check_swap()

    def _check_axes(self) -> None:
        if self.orientation is not None:
            directions(self.orientation)
        if self.slice_axis is not None and (self.dim == 3 or self.slice_axis not in range(3)):
            raise OptionError(f"slice_axis is 0, 1 or 2, and for dim 2 only; got {self.slice_axis} for dim {self.dim}")
        if self.axes and (self.dim == 2 or sorted(self.axes) != [0, 1, 2]):
            raise OptionError(f"axes is an order of 0, 1 and 2, and for dim 3 only; got {self.axes} for dim {self.dim}")
        if len(set(self.mirror)) < len(self.mirror) or not set(self.mirror) <= set(range(self.dim)):
            raise OptionError(f"mirror names axes from 0 to {self.dim - 1}, each once, got {self.mirror}")
        if self.swap_axis is not None and self.swap_axis not in range(self.dim):
            raise OptionError(f"swap_axis is an axis from 0 to {self.dim - 1}, got {self.swap_axis}")

    def _check_swap(self) -> None:
        if self.swap and self.swap_axis is None:
            raise OptionError(f"swap needs swap_axis, the axis along which it applies, got swap {self.swap} alone")
        last = self.network.out_channels - 1
        for pair in self.swap:
            if pair[0] == pair[1] or not set(pair) <= set(range(last + 1)):
                raise OptionError(f"swap names two different output channels from 0 to {last}, got {pair}")


def _largest(value: Value) -> float:
    """Return the largest number in a value, whatever its sign."""
    if isinstance(value, tuple | list):
        return max(map(_largest, value), default=0)
    return abs(value) if isinstance(value, int | float) else 0


@record
class Reason:
    """Why a number of the plan is what it is."""

    config: str
    field: str
    value: str
    why: str


@record
class Plan:
    """What planning chose for a data set.

    Attributes:
        format: version of this record.
        dataset: its name.
        folder: where it lies, as text.
        channels, labels: of the data set; a plan is refused for another one.
        device: what the plan was made for, and the times measured on.
        minutes: of training that the plan was made for; None: as long as the recipes say.
        default: the configuration to use unless another is asked for.
        configs: by name, "3d-unet" say: dimension and network.
        reasons: one a number, for `plan --explain`.
    """

    format: int = 1
    dataset: str
    folder: str
    channels: tuple[str, ...]
    labels: Labels
    device: str
    minutes: float | None = None
    default: str
    configs: dict[str, Config]
    reasons: tuple[Reason, ...] = ()

    def __post_init__(self) -> None:
        if self.default not in self.configs:
            raise OptionError(f"the default configuration {self.default} is not among {sorted(self.configs)}")
        for name, config in self.configs.items():
            self._check_fits(name, config)

    def _check_fits(self, name: str, config: Config) -> None:
        """Refuse a network with other channels than the data set has, or other outputs than its labels."""
        network, labels = config.network, self.labels
        if network.in_channels != len(self.channels):
            raise OptionError(
                f"the network of {name} has in_channels {network.in_channels}, "
                f"the data set {len(self.channels)} channels ({', '.join(self.channels)})"
            )
        if network.out_channels != labels.out_channels:
            raise OptionError(
                f"the network of {name} has out_channels {network.out_channels}, "
                f"but the labels need {labels.out_channels} ({', '.join(labels.names)}"
                f"{'' if labels.has_regions else ' and background'})"
            )
        if not labels.has_regions and any(0 in pair for pair in config.swap):
            raise OptionError(f"swap of {name} exchanges paired organs, but 0 is the background; got {config.swap}")

    def config(self, name: str) -> Config:
        """Return a configuration by name."""
        if name not in self.configs:
            raise OptionError(f"the plan has no configuration {name}", hint=f"choose from {', '.join(self.configs)}")
        return self.configs[name]


def read_plan(work: Path) -> Plan:
    """Read the plan of a work folder.

    Raises:
        DataError: there is none.
        FileFormatError: it is not a valid plan.
    """
    path = work / "plan.json"
    if not path.is_file():
        raise DataError(f"{work} holds no plan.json", hint=f"make one: mambino plan DATA -o {work}")
    return read(Plan, path, hint=f"correct it, or remove it and plan again: mambino plan DATA -o {work}")
