"""Findings about images that appear twice: within the training set, or in training and test."""

from collections.abc import Iterator, Sequence

from mambino.core.findings import Finding
from mambino.inspection.facts import CaseFacts


def repeats(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Find cases whose voxels equal those of an earlier case, and training cases that are test cases too."""
    firsts, tests = first_copies(cases), held_out(cases)
    for case in cases:
        if case.training and case.digest in tests:
            yield Finding(
                severity="error",
                kind="train and test",
                case=case.case.id,
                message=f"the training image holds the same voxels as the test image {tests[case.digest]}",
                remedy="take it out of training, or scores on the test cases mean nothing; `--repair` does",
            )
        first = firsts.get(case.case.id)
        if first:
            part = "training" if case.training else "test"
            yield Finding(
                severity="warning",
                kind="duplicate image",
                case=case.case.id,
                message=f"the {part} image holds the same voxels as {first.case.id}{_masks(case, first)}",
                remedy="keep one of them, so that folds stay apart; `--repair` keeps the first",
            )


def patients(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Find patients with cases in training and in test."""
    tests = {case.case.patient: case.case.id for case in reversed(cases) if not case.training and case.case.patient}
    for case in cases:
        if case.training and case.case.patient in tests:
            yield Finding(
                severity="warning",
                kind="train and test",
                case=case.case.id,
                message=f"patient {case.case.patient} is in training ({case.case.id}) and in test "
                f"({tests[case.case.patient]})",
                remedy="keep all cases of a patient on one side, or scores on the test cases are too good",
            )


def first_copies(cases: Sequence[CaseFacts]) -> dict[str, CaseFacts]:
    """Return, for each case that repeats an earlier one of its part, the earlier one."""
    seen: dict[tuple[bool, str], CaseFacts] = {}
    found = {}
    for case in cases:
        if not tells(case):
            continue
        first = seen.setdefault((case.training, case.digest), case)
        if first is not case:
            found[case.case.id] = first
    return found


def held_out(cases: Sequence[CaseFacts]) -> dict[str, str]:
    """Return the digests of the test images with the name of a case that holds them."""
    return {case.digest: case.case.id for case in reversed(cases) if not case.training and tells(case)}


def tells(case: CaseFacts) -> bool:
    """Whether equal voxels mean the same examination: an image that is constant looks like any other."""
    return bool(case.digest) and len(case.constant) < case.channels


def _masks(case: CaseFacts, first: CaseFacts) -> str:
    if not case.mask or not first.mask:
        return ""
    return ", with the same mask" if case.mask.codes == first.mask.codes else ", with another mask"
