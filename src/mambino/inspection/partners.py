"""Findings about files: what cannot be read, what lacks its partner, and how many channels there are."""

from collections import Counter
from collections.abc import Iterator, Sequence

from mambino.core.dataset import Dataset
from mambino.core.findings import Finding, Kind
from mambino.imageio.folders import Problem
from mambino.inspection.facts import CaseFacts, FileFacts


def unreadable(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Find files that cannot be read."""
    for case in cases:
        for facts in case.files:
            if facts.error:
                yield Finding(
                    severity="error",
                    kind="unreadable file",
                    case=case.case.id,
                    message=facts.error,
                    remedy=facts.hint or "copy or export the file again; `--repair` leaves the case out",
                )


def warned(cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Pass on what the readers warned of; what many files share is said once."""
    said: dict[str, list[tuple[str, FileFacts]]] = {}
    for case in cases:
        for facts in case.files:
            for text in facts.warned:
                said.setdefault(text, []).append((case.case.id, facts))
    for text, met in said.items():
        name, facts = met[0]
        alone = len(met) == 1
        apart = "qform and sform" in text
        yield Finding(
            severity="note" if "alpha is" in text else "warning",
            kind="qform and sform" if apart else "reader's warning",
            case=name if alone else "",
            message=f"{facts.path.name}{'' if alone else f' and {len(met) - 1} more files'}: {text}",
            remedy="find out which of them is right, and write the file again with both equal"
            if apart
            else "nothing to do if the files were meant so",
        )


def scanned(problems: Sequence[Problem]) -> Iterator[Finding]:
    """Pass on what was wrong with names and descriptions; what concerns single files is measured here again."""
    for problem in problems:
        if problem.kind in {"noisy masks", "unreadable"}:
            continue
        kind: Kind = "missing partner"
        if problem.kind == "labels":
            kind = "label gaps"
        elif problem.kind == "duplicate":
            kind = "train and test" if "among the test images" in problem.message else "name clash"
        yield Finding(
            severity=problem.severity, kind=kind, case=problem.case, message=problem.message, remedy=problem.remedy
        )


def channels(dataset: Dataset, cases: Sequence[CaseFacts]) -> Iterator[Finding]:
    """Find cases with another number of channels than declared; a mix of numbers is named as such."""
    counts = Counter(case.channels for case in cases if case.readable)
    mixed = (
        f"; the cases have {', '.join(f'{n} ({counts[n]} cases)' for n in sorted(counts))}" if len(counts) > 1 else ""
    )
    declared = f"{len(dataset.channels)} ({', '.join(dataset.channels)})"
    for case in cases:
        if case.readable and case.channels != len(dataset.channels):
            yield Finding(
                severity="error",
                kind="channel count",
                case=case.case.id,
                message=f"the image has {case.channels} channels, declared are {declared}{mixed}",
                remedy="convert the image, or declare its channels in dataset.json",
            )
