"""Findings count by severity and survive being written and read."""

from pathlib import Path

from mambino.core.findings import Finding, Findings, Severity
from mambino.core.records import read, write


def finding(severity: Severity) -> Finding:
    return Finding(severity=severity, kind="empty mask", case="a", message="m", remedy="r")


def test_findings_count_by_severity_and_round_trip(tmp_path):
    found = Findings(
        dataset="set",
        folder=Path("set"),
        training=3,
        test=1,
        files=8,
        findings=tuple(map(finding, ("error", "error", "warning", "note"))),
        copy=Path("copy"),
        repaired=("a: changed",),
    )
    assert (found.errors, found.warnings, found.notes) == (2, 1, 1)
    assert read(Findings, write(found, tmp_path / "findings.json")) == found
