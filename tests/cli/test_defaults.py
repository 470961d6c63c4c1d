"""Flags have defaults in a file; what is wrong with it is one clear error."""

import pytest

from mambino.cli.app import dispatch
from mambino.core.options import PlanOptions
from tests.cli.test_app import _stop, exit_code


def test_options_come_from_a_file_and_flags_win(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("mambino.planning.plan", lambda *args, **_: seen.append(args[2]) or _stop())
    options = tmp_path / "options.toml"
    options.write_text("[plan]\nminutes = 3\nparams = 1000\n")
    with pytest.raises(KeyboardInterrupt):
        dispatch(["plan", "d", "-o", "w", "--options", str(options), "--minutes", "5"])
    assert seen == [PlanOptions(minutes=5, params=1000)]


@pytest.mark.parametrize(
    "words",
    [
        ["--options", "{}", "plan", "d", "-o", "w"],
        ["plan", "--options={}", "d", "-o", "w"],
        ["plan", "d", "-o", "w", "--options", "{}"],
    ],
)
def test_a_file_of_options_may_stand_anywhere(tmp_path, monkeypatch, words):
    seen = []
    monkeypatch.setattr("mambino.planning.plan", lambda *args, **_: seen.append(args[2]) or _stop())
    (tmp_path / "options.toml").write_text("[train]\nepochs = 2\n[plan]\nminutes = 3\n")
    with pytest.raises(KeyboardInterrupt):
        dispatch([word.format(tmp_path / "options.toml") for word in words])
    assert seen == [PlanOptions(minutes=3)]


@pytest.mark.parametrize(
    ("content", "code", "what"),
    [
        (None, 4, "options.toml cannot be read: No such file"),
        (b"[plan", 4, "options.toml is not TOML: Expected"),
        (b"\xff\xfe", 4, "options.toml is not TOML: 'utf-8' codec"),
        (b"[paln]\nminutes = 3", 4, "options.toml has paln, which is no table of a command"),
        (b"minutes = 3", 4, "options.toml has minutes, which is no table of a command"),
        (b"[plan]\nminuets = 3", 2, "minuets"),
        (b"[plan]\nminutes = 'long'", 2, "[minutes] from"),
    ],
)
def test_a_bad_file_of_options_is_one_clear_error(tmp_path, capsys, content, code, what):
    if content is not None:
        (tmp_path / "options.toml").write_bytes(content)
    assert exit_code("plan", "d", "-o", "w", "--options", tmp_path / "options.toml") == code
    said = capsys.readouterr().err
    assert what in said
    assert "Traceback" not in said
    assert exit_code("plan", "d", "-o", "w", "--options", tmp_path) == 4
    assert "cannot be read: " in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--options"], ["--options="], ["--options", "a", "--options", "b"]])
def test_a_file_of_options_is_one_file(capsys, words):
    assert exit_code("plan", "d", "-o", "w", *words) == 2
    assert "--options takes one file, got" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["plan"], ["train"]])
def test_help_names_the_file_of_options(capsys, words):
    assert exit_code(*words, "--help") == 0
    assert "--options FILE.toml" in capsys.readouterr().out
