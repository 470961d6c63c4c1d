"""Times and tables read well."""

import io

import pytest

from mambino.cli import console


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations_are_written_as_people_do(seconds, text):
    assert console.duration(seconds) == text


def test_tables_show_what_is_missing_as_a_dash(capsys):
    console.table(["a", "b"], [("x", None), ("y", 0.25)])
    assert capsys.readouterr().out.split() == ["a", "b", "x", "-", "y", "0.25"]


@pytest.mark.parametrize("text", ["pip install 'mambino[itk]'", "d[/x]", "[bold]b", "a:100:b", "\\[itk]"])
def test_tables_show_every_text_as_it_is(capsys, text):
    console.table([text, "b"], [("x", text)], title=text)
    assert capsys.readouterr().out.count(text) == 3


def test_progress_shows_names_as_they_are(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with console.progress("check") as update:
        update(1, 2, "d[/x][itk]")
    assert "d[/x][itk]" in screen.getvalue()


def test_progress_lends_a_callback(capsys):
    with console.progress("check") as update:
        update(1, 2, "case")
    with console.stages() as (announce, update):
        announce("plan")
        update(2, 2, "done")
    assert "== plan" in capsys.readouterr().err
