"""Errors carry a hint and an exit code, and a missing extra is named."""

import pytest

from mambino.errors import DataError, Error, MissingExtraError, need


def test_a_missing_extra_is_named():
    with pytest.raises(
        MissingExtraError, match=r"reading a\.mha needs the package no_such, which is not installed"
    ) as caught:
        need("no_such.thing", extra="itk", why="reading a.mha")
    assert caught.value.hint == "pip install 'mambino[itk]'"
    assert isinstance(caught.value, ImportError)


def test_what_is_there_is_imported():
    assert need("json", extra="x", why="this").dumps([1]) == "[1]"


def test_errors_are_values_errors_too():
    error = DataError("a: b", hint="c")
    assert isinstance(error, Error | ValueError)
    assert (str(error), error.hint, error.exit_code) == ("a: b", "c", 3)
