"""What `best` chose: which bundles to average, how to clean their masks, and why."""

from dataclasses import replace
from pathlib import Path

from mambino.core.archives import leaves
from mambino.core.options import PredictOptions
from mambino.core.records import record
from mambino.core.report import Statistic
from mambino.errors import OptionError

NAME = "best.json"
"""Of the record in a work folder."""


@record
class Member:
    """A bundle to predict with.

    Attributes:
        config: its configuration in the plan; bundles of one are averaged before those of several are.
        fold: of the training cases, which it has not learnt from.
        bundle: its file, in the folder of this record.
        sha256: of the file.
    """

    config: str
    fold: int
    bundle: Path
    sha256: str


@record
class Contender:
    """A configuration, or two whose probabilities are averaged, and how good it is on held-out cases.

    Attributes:
        name: of the configurations, with a plus between them.
        configs: of the plan.
        dice: mean Dice of the structures of a case, over the cases that all contenders have segmented.
        labels: Dice of each structure.
        seconds: median time a case with all its bundles, on the machine that compared (s).
        behind: by how much its Dice is below that of the highest contender, case by case; None of that one.
        level: no contender is better by more than the interval of the difference.
        chosen: it is the one to use.
    """

    name: str
    configs: tuple[str, ...]
    dice: Statistic
    labels: dict[str, Statistic]
    seconds: float
    behind: Statistic | None = None
    level: bool = True
    chosen: bool = False


@record
class Gain:
    """What cleaning the masks of a structure does to its Dice.

    Attributes:
        label: the structure.
        smallest: pieces below this size are removed (ml; square mm in 2D, or pixels); 0 keeps all.
        largest: the largest piece alone is kept.
        fill: holes are filled.
        before, after: mean Dice without and with it.
        difference: case by case.
        taken: it is done when predicting.
    """

    label: str
    smallest: float = 0.0
    largest: bool = False
    fill: bool = False
    before: float
    after: float
    difference: Statistic
    taken: bool = False

    @property
    def said(self) -> str:
        """What is done, in words."""
        words = [f"pieces below {self.smallest:g} removed"] * bool(self.smallest)
        words += ["largest piece kept"] * self.largest + ["holes filled"] * self.fill
        return ", ".join(words) or "nothing"


@record
class Best:
    """What to predict with, chosen by held-out training cases alone; `best.json` in a work folder.

    Attributes:
        format: version of this record.
        dataset: name of the data set.
        members: the bundles to use.
        mirror: predict with mirrored copies, as was compared.
        cases: how many held-out cases the contenders were compared on.
        contenders: all of them, the best Dice first.
        gains: what cleaning the masks of the chosen one does, structure by structure: the best way for each.
        cleaned: Dice of the chosen one with the cleaning that is taken.
        reason: why this one, in a sentence.
        notes: what a reader must know besides, such as folds that are missing.
        versions: of the software.
    """

    format: int = 1
    dataset: str
    members: tuple[Member, ...]
    mirror: bool = False
    cases: int
    contenders: tuple[Contender, ...]
    gains: tuple[Gain, ...] = ()
    cleaned: Statistic
    reason: str
    notes: tuple[str, ...] = ()
    versions: dict[str, str]

    def __post_init__(self) -> None:
        outside = [member.bundle for member in self.members if leaves(str(member.bundle))]
        if outside:
            raise OptionError(f"the bundle {outside[0]} lies outside the folder of the record that names it")
        if sum(one.chosen for one in self.contenders) != 1:
            raise OptionError(f"one of {len(self.contenders)} contenders is chosen, no more and no less")
        found = tuple(dict.fromkeys(member.config for member in self.members))
        if set(found) != set(self.chosen.configs):
            raise OptionError(f"the bundles are of {', '.join(found)}, but {self.chosen.name} is chosen")

    @property
    def chosen(self) -> Contender:
        """The contender to use."""
        return next(one for one in self.contenders if one.chosen)

    def groups(self, folder: Path) -> tuple[tuple[Path, ...], ...]:
        """Return the bundles by configuration; the record lies in `folder`."""
        return tuple(
            tuple(folder / member.bundle for member in self.members if member.config == name)
            for name in self.chosen.configs
        )

    def applied(self, options: PredictOptions) -> PredictOptions:
        """Return options with what was chosen; cleaning that a user asks for takes the place of ours."""
        options = replace(options, mirror=options.mirror or self.mirror)
        if options.largest or options.smallest or options.fill:
            return options
        taken = [gain for gain in self.gains if gain.taken]
        return replace(
            options,
            largest=tuple(gain.label for gain in taken if gain.largest),
            smallest=tuple(f"{gain.label}={gain.smallest:g}" for gain in taken if gain.smallest),
            fill=tuple(gain.label for gain in taken if gain.fill),
        )


def find_best(path: Path) -> Path | None:
    """Return the record that a path names: itself, or that of a work folder; None where it is something else."""
    if path.suffix == ".json" and not path.is_dir():
        return path
    inside = path / NAME
    return inside if inside.is_file() and (path / "plan.json").is_file() else None
