"""Older files become what this version reads, step by step; newer ones are refused by both numbers."""

import dataclasses

import pytest

from mambino.core import formats
from mambino.core.fingerprint import Fingerprint
from mambino.core.formats import upgraded
from mambino.core.plan import Plan
from mambino.core.records import parse, record
from mambino.core.report import Report
from mambino.errors import FileFormatError
from mambino.inference.ledger import Predictions
from mambino.preprocessing.store import StoredFacts
from mambino.training.runs import Run
from mambino.weights.bundle import BundleHeader


@record
class Thing:
    """What has changed twice.

    Attributes:
        format: of this record.
        colour: was called "color" in format 1, and had a capital letter in format 2.
    """

    format: int = 3
    colour: str


@pytest.fixture(autouse=True)
def _steps(monkeypatch):
    steps = (
        lambda facts: {"format": 2, "colour": facts["color"]},
        lambda facts: {**facts, "format": 3, "colour": facts["colour"].lower()},
    )
    monkeypatch.setattr(formats, "STEPS", {**formats.STEPS, "thing": steps})


@pytest.mark.parametrize(
    "text",
    [
        '{"format": 1, "color": "Red"}',
        '{"format": 2, "colour": "Red"}',
        '{"format": 3, "colour": "red"}',
        '{"colour": "red"}',
    ],
)
def test_files_of_all_formats_are_read_as_the_newest(text):
    assert parse(Thing, text, "x") == Thing(colour="red")


@pytest.mark.parametrize("found", [0, -1, 4, 2**70])
def test_other_formats_are_refused_by_both_numbers(found):
    words = f"x has format {found}, but this version of mambino reads format 3"
    with pytest.raises(FileFormatError, match=words) as caught:
        parse(Thing, f'{{"format": {found}, "colour": "red"}}', "x", hint="make it again")
    assert caught.value.hint == "use the version of mambino that wrote it, or make it again"


def test_what_an_older_file_lacks_is_still_said():
    with pytest.raises(FileFormatError, match="x does not hold what format 1 does"):
        parse(Thing, '{"format": 1, "colour": "red"}', "x")
    with pytest.raises(FileFormatError, match="x is not a valid thing: paint: Unexpected keyword"):
        parse(Thing, '{"format": 2, "colour": "Red", "paint": 1}', "x")


def test_an_old_state_gets_a_count_of_setbacks_and_an_idle_scaler():
    older = {"format": 1, "numbers": {"step": 3}}
    newer = {"format": 3, "numbers": {"step": 3, "setbacks": 0}, "scaler": {}}
    assert upgraded("state", older, 3, "x", "y") == newer
    assert upgraded("state", {**newer, "format": 2}, 3, "x", "y") == newer


@pytest.mark.parametrize("kind", [Plan, Fingerprint, Report, Predictions, Run, StoredFacts, BundleHeader])
def test_everything_that_is_read_later_carries_its_format(kind):
    assert next(field.default for field in dataclasses.fields(kind) if field.name == "format") >= 1
