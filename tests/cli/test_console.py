"""Times and tables read well."""

import pytest

from mambino.cli import console


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations_are_written_as_people_do(seconds, text):
    assert console.duration(seconds) == text


def test_tables_show_what_is_missing_as_a_dash(capsys):
    console.table(["a", "b"], [("x", None), ("y", 0.25)])
    assert capsys.readouterr().out.split() == ["a", "b", "x", "-", "y", "0.25"]


def test_progress_lends_a_callback(capsys):
    with console.progress("check") as update:
        update(1, 2, "case")
    with console.stages() as (announce, update):
        announce("plan")
        update(2, 2, "done")
    assert "== plan" in capsys.readouterr().err
