"""Versions are those of the software that runs."""

import platform
from importlib.metadata import PackageNotFoundError

import numpy as np
import torch

from mambino.core import provenance
from mambino.core.provenance import versions


def test_versions_are_those_of_what_is_imported():
    found = versions()
    assert found["python"] == platform.python_version()
    assert (found["numpy"], found["torch"]) == (np.__version__, torch.__version__)
    assert found["mambino"]


def test_what_is_not_installed_is_left_out(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(provenance, "version", missing)
    assert versions().keys() == {"python"}
