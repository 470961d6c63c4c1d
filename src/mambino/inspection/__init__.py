"""Look at every file of a data set before anything is learnt from it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from mambino.core.dataset import Dataset
from mambino.core.findings import Finding, Findings
from mambino.core.options import CheckOptions, Progress, silent
from mambino.core.records import checked
from mambino.errors import OptionError
from mambino.imageio.folders import scan_dataset
from mambino.inspection import geometry, leakage, partners, values
from mambino.inspection.facts import CaseFacts, examine
from mambino.inspection.repair import writable, write_copy

_SEVERITIES = ("error", "warning", "note")


def check(data: Path, options: CheckOptions = CheckOptions(), *, progress: Progress = silent) -> Findings:
    """Look at every file of a data set and say what is wrong with it.

    Args:
        data: an nnU-Net raw folder, or a folder with images/ and labels/ or masks/.
        options: with `repair`, a repaired copy is written to `output`; `data` is never changed.
        progress: called after each file.

    Returns:
        Findings, errors first; none for a clean data set.

    Raises:
        DataError: there is no data set in `data`, or no case of it can be repaired.
        FileFormatError: `data` or its dataset.json cannot be read, or the copy cannot be written.
        OptionError: `repair` without `output`, or the other way round; the folder for the copy is not empty, or
            is in the data set.
    """
    options = checked(options)
    data = Path(data)
    copy = _copy(options, data)
    dataset, problems = scan_dataset(data)
    cases = examine(dataset, options.workers, progress)
    found = Findings(
        dataset=dataset.name,
        folder=data,
        training=len(dataset.training),
        test=len(dataset.test),
        files=sum(len(case.files) for case in cases),
        findings=_sorted(chain(partners.scanned(problems), findings(dataset, cases))),
    )
    if copy is None:
        return found
    return replace(found, copy=copy, repaired=write_copy(dataset, cases, problems, copy, options.workers, progress))


def findings(dataset: Dataset, cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Compute every finding from measurements; no file is opened."""
    meant = values.meaning(dataset, cases)
    yield from partners.unreadable(cases)
    yield from partners.channels(dataset, cases)
    yield from geometry.dimensions(cases)
    yield from geometry.pairs(cases)
    yield from values.masks(cases, meant)
    yield from values.intensities(cases)
    yield from values.occurrences(cases, meant)
    yield from leakage.repeats(cases)
    yield from leakage.patients(cases)
    yield from geometry.outliers(cases)
    yield from geometry.orientations(cases)
    yield from partners.warned(cases)


def _copy(options: CheckOptions, data: Path) -> Path | None:
    hint = f"mambino check {data} --repair -o COPY"
    if options.output is None:
        if options.repair:
            raise OptionError("--repair needs a folder for the copy, and none was given", hint=hint)
        return None
    if not options.repair:
        raise OptionError(f"--output {options.output} names a folder for the copy, and --repair was not given", hint)
    return writable(options.output, data)


def _sorted(found: Iterator[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity)))
