"""What an evaluation found: one row a case and a label, and a summary of each label."""

from dataclasses import replace
from typing import Literal

from mambino.core.records import record
from mambino.errors import OptionError

Found = Literal["both", "missed", "invented", "neither"]
"""Who has the structure: prediction and truth, the truth alone, the prediction alone, nobody."""


@record
class Score:
    """How one structure of one case was segmented.

    Attributes:
        case, label: which.
        found: "neither" leaves every score None, "not applicable"; "missed" and "invented" are Dice 0, NSD 0
            and an infinite distance.
        dice, iou, sensitivity, precision, specificity: shares, 0 to 1; None where the denominator is 0.
        hd95: 95th percentile of the Hausdorff distance (`unit`); None where it is infinite or not applicable.
        hd95_diagonal: the same, with the diagonal of the image in place of infinity (`unit`).
        nsd: share of both surfaces within the report's tolerance of the other.
        truth_size, predicted_size: of the structure (`size_unit`).
        unit: of distances; "pixel" where the image has no spacing.
        size_unit: ml of a volume, mm² of a picture, pixels where the image has no spacing.
    """

    case: str
    label: str
    found: Found
    dice: float | None = None
    iou: float | None = None
    sensitivity: float | None = None
    precision: float | None = None
    specificity: float | None = None
    hd95: float | None = None
    hd95_diagonal: float | None = None
    nsd: float | None = None
    truth_size: float = 0.0
    predicted_size: float = 0.0
    unit: Literal["mm", "pixel"] = "mm"
    size_unit: Literal["ml", "mm²", "pixels"] = "ml"


@record
class Statistic:
    """One number a case, summed up.

    Attributes:
        cases: how many have the number.
        mean, median, std: of them; None without a case, `std` with fewer than two.
        low, high: 95 % interval of the mean; None with fewer than two cases.
    """

    cases: int
    mean: float | None = None
    median: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None


@record
class Summary:
    """One label over all cases, or the mean of all labels in each case.

    Attributes:
        label: its name, or "all labels".
        cases: compared, those included where the label does not apply.
        not_applicable: cases in which neither mask has the label; they are in no mean.
        missed: cases in which only the truth has it.
        invented: cases in which only the prediction has it.
        metrics: by name: dice, iou, sensitivity, precision, specificity, hd95 (finite ones), hd95_diagonal, nsd.
    """

    label: str
    cases: int
    not_applicable: int = 0
    missed: int = 0
    invented: int = 0
    metrics: dict[str, Statistic]

    @property
    def dice(self) -> float | None:
        """Mean Dice."""
        return self.metrics["dice"].mean

    @property
    def dice_median(self) -> float | None:
        """Median Dice."""
        return self.metrics["dice"].median

    @property
    def dice_low(self) -> float | None:
        """Lower end of the 95 % interval of the mean Dice."""
        return self.metrics["dice"].low

    @property
    def dice_high(self) -> float | None:
        """Upper end of the 95 % interval of the mean Dice."""
        return self.metrics["dice"].high

    @property
    def iou(self) -> float | None:
        """Mean IoU."""
        return self.metrics["iou"].mean

    @property
    def hd95(self) -> float | None:
        """Mean of the finite 95 % Hausdorff distances."""
        return self.metrics["hd95"].mean

    @property
    def nsd(self) -> float | None:
        """Mean normalised surface distance."""
        return self.metrics["nsd"].mean


@record
class Model:
    """What made the predictions, as `predict.json` beside them says.

    Attributes:
        bundles: sha256 of each file of weights.
        networks: their names, one a bundle, where they are known.
        options: of `predict`, as text.
    """

    bundles: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    options: dict[str, str]


@record
class Expected:
    """How sure the model was of a case, before anybody knew the truth, as `predict.json` beside its mask says.

    Attributes:
        case: which.
        dice: that the probabilities expect; None where no structure was found.
        at_least: the Dice of nine in ten cases like those the model was calibrated on; None where it was not.
        trusted: False where the expected Dice is below that of nine in ten of those cases; None where that is unknown.
    """

    case: str
    dice: float | None = None
    at_least: float | None = None
    trusted: bool | None = None


@record
class Candidate:
    """A network that was trained for a choice.

    Attributes:
        config: its configuration in the plan, "3d-unet" say.
        network: its name.
        parameters: how many it has.
        validation: mean Dice on the held-out training cases when its weights were kept, on the prepared grid.
        test: mean Dice on the test cases; None where there are none, or it was not scored yet.
        chosen: it is the one with the best `validation`.
    """

    config: str
    network: str
    parameters: int
    validation: float | None = None
    test: float | None = None
    chosen: bool = False


@record
class Choice:
    """Which network made the masks, which others there were, and what the scored cases are to them.

    Attributes:
        cases: "test": no network has learnt from them or was chosen by them; "held out": of the training cases,
            those by which the network was chosen and its training was watched.
        made_by: configuration of the candidate whose masks are scored.
        candidates: in the order in which they were trained.
    """

    cases: Literal["test", "held out"]
    made_by: str
    candidates: tuple[Candidate, ...]

    def __post_init__(self) -> None:
        if sum(candidate.chosen for candidate in self.candidates) != 1:
            raise OptionError(f"one of {len(self.candidates)} candidates is chosen, no more and no less")
        if all(candidate.config != self.made_by for candidate in self.candidates):
            raise OptionError(f"{self.made_by} is not among the {len(self.candidates)} candidates")

    @property
    def chosen(self) -> Candidate:
        """The network with the best validation Dice."""
        return next(candidate for candidate in self.candidates if candidate.chosen)

    @property
    def maker(self) -> Candidate:
        """The network whose masks are scored."""
        return next(candidate for candidate in self.candidates if candidate.config == self.made_by)

    @property
    def said(self) -> str:
        """A sentence on what the scored cases are."""
        if self.cases == "test":
            return "These are test cases: no network has learnt from them, and none was chosen by them."
        what = "the network was chosen" if len(self.candidates) > 1 else "its training was watched"
        return (
            f"There are no test masks: these are the held-out training cases, by which {what}, "
            "so expect less on new images."
        )

    def scored(self, dice: float | None) -> "Choice":
        """Return the choice with the test Dice of the network that made the masks; unchanged without test cases."""
        if self.cases != "test":
            return self
        done = tuple(replace(c, test=dice) if c.config == self.made_by else c for c in self.candidates)
        return replace(self, candidates=done)


@record
class Report:
    """The comparison of two folders of masks. Holds names of cases and no paths.

    Attributes:
        format: version of this record.
        dataset: name of the data set, where it is known.
        model: what made the predictions, where it is known.
        choice: which networks there were to make them, where `run` trained them.
        surface: what counts as a surface, "voxel" or "surfel".
        tolerance: of the normalised surface distance (`unit`).
        unit: of distances, "mm" or "pixel", or both where cases differ.
        scores: one a case and label.
        summary: one a label in the order of the labels, then all labels together where there are several.
        expected: how sure the model was of each case, where it was asked.
        missing: cases with a truth and without a prediction; they are in no mean.
        extra: predictions without a truth.
        notes: what a reader must know besides.
        definitions: of each number, as a sentence.
        versions: of the software.
    """

    format: int = 1
    dataset: str = ""
    model: Model | None = None
    choice: Choice | None = None
    surface: Literal["voxel", "surfel"]
    tolerance: float
    unit: str
    scores: tuple[Score, ...]
    summary: tuple[Summary, ...]
    expected: tuple[Expected, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    definitions: dict[str, str]
    versions: dict[str, str]

    @property
    def doubtful(self) -> tuple[str, ...]:
        """The cases compared whose masks the model itself said not to trust."""
        return tuple(expected.case for expected in self.expected if expected.trusted is False)

    @property
    def cases(self) -> tuple[str, ...]:
        """The cases compared, in order."""
        return tuple(dict.fromkeys(score.case for score in self.scores))

    @property
    def dice(self) -> float | None:
        """Mean Dice: of all labels in each case, then of all cases."""
        return self.summary[-1].dice
