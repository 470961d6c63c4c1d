"""What `check` found in a data set."""

from pathlib import Path
from typing import Literal

from mambino.core.records import record

Severity = Literal["error", "warning", "note"]

Kind = Literal[
    "unreadable file",
    "missing partner",
    "name clash",
    "channel count",
    "mixed dimensions",
    "mask shape",
    "mask affine",
    "channel grids",
    "qform and sform",
    "spacing outlier",
    "size outlier",
    "mixed orientation",
    "undeclared label",
    "label gaps",
    "0/255 mask",
    "colour mask",
    "noisy mask",
    "fractional mask",
    "float mask",
    "not finite",
    "empty mask",
    "constant image",
    "label never occurs",
    "duplicate image",
    "train and test",
    "reader's warning",
]


@record
class Finding:
    """One thing that is wrong with a data set, or worth knowing.

    Attributes:
        severity: "error": training would fail or learn something false; "warning": look at it;
            "note": harmless, said so that nobody is surprised.
        kind: what it is; docs/check.md explains each.
        case: which examination; empty where it concerns the whole data set.
        message: one sentence with both values.
        remedy: the next step.
    """

    severity: Severity
    kind: Kind
    case: str
    message: str
    remedy: str


@record
class Findings:
    """All findings of one data set, errors first.

    Attributes:
        dataset: its name.
        folder: where it lies.
        training: cases with masks.
        test: cases for testing.
        files: how many files were looked at.
        findings: none where the data set is clean.
        copy: where the repaired copy was written.
        repaired: what was changed in the copy, a sentence a change.
    """

    dataset: str
    folder: Path
    training: int
    test: int
    files: int
    findings: tuple[Finding, ...] = ()
    copy: Path | None = None
    repaired: tuple[str, ...] = ()

    @property
    def errors(self) -> int:
        """Number of findings that are errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        """Number of findings that are warnings."""
        return sum(finding.severity == "warning" for finding in self.findings)

    @property
    def notes(self) -> int:
        """Number of findings that are notes."""
        return sum(finding.severity == "note" for finding in self.findings)
