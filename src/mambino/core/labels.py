"""What the numbers in a mask mean: names, overlapping regions and the ignore label."""

from mambino.core.records import record
from mambino.errors import DataError


@record
class Labels:
    """Names of structures and the label numbers that each is made of.

    A plain label has one number, a region several ("whole tumour": 1, 2, 3). Regions may overlap.

    Attributes:
        names: foreground structures in order, each with its numbers; background is not among them.
        ignore: number of voxels that nobody annotated, never learnt and never scored.
        paint: for regions, the number written for each of them, in the order of `names`; a later one
            is painted over an earlier one.
    """

    names: dict[str, tuple[int, ...]]
    ignore: int | None = None
    paint: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.names:
            raise DataError("labels need at least one structure besides the background")
        numbers = sorted(set(self.numbers) - {0}) if all(0 not in group for group in self.names.values()) else [0]
        if numbers[0] < 1:
            raise DataError(f"label numbers start at 1, since 0 is background; got {numbers[0]}")
        if numbers != list(range(1, len(numbers) + 1)):
            raise DataError(
                f"label numbers must follow one another without gaps, got {numbers}",
                hint="renumber them: mambino check DATA --repair -o COPY",
            )
        if self.has_regions and (self.paint is None or len(self.paint) != len(self.names)):
            raise DataError(
                f"{len(self.names)} regions need as many entries in regions_class_order, "
                f"got {0 if self.paint is None else len(self.paint)}"
            )

    @property
    def has_regions(self) -> bool:
        """Whether a structure is made of several numbers, so that structures may overlap."""
        return any(len(group) > 1 for group in self.names.values())

    @property
    def numbers(self) -> tuple[int, ...]:
        """Every number that a mask may hold, background and ignore included."""
        found = {0, *(n for group in self.names.values() for n in group)}
        return tuple(sorted(found | ({self.ignore} if self.ignore is not None else set())))

    @property
    def out_channels(self) -> int:
        """Channels of the network: one a structure, plus background where structures exclude one another."""
        return len(self.names) + (not self.has_regions)
