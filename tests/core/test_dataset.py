"""Folds hold every case once, keep patients together and follow from the seed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambino.core.dataset import Case, Dataset
from mambino.core.labels import Labels
from mambino.errors import DataError, OptionError


def dataset(patients: list[int]) -> Dataset:
    cases = tuple(Case(id=f"c{i}", images=(Path(f"c{i}.png"),), patient=f"p{p}") for i, p in enumerate(patients))
    return Dataset(name="x", folder=Path("x"), channels=("grey",), labels=Labels(names={"a": (1,)}), training=cases)


@given(patients=st.lists(st.integers(0, 9), min_size=10, max_size=40), seed=st.integers(0, 99), count=st.integers(2, 5))
def test_folds_part_the_cases_and_never_a_patient(patients, seed, count):
    data = dataset([*range(10), *patients])
    folds = data.folds(count, seed)
    assert sorted(i for fold in folds for i in fold) == sorted(case.id for case in data.training)
    home = {case.id: case.patient for case in data.training}
    for a in range(count):
        for b in range(a):
            assert not {home[i] for i in folds[a]} & {home[i] for i in folds[b]}
    assert folds == data.folds(count, seed)


def test_other_seeds_give_other_folds():
    data = dataset(list(range(20)))
    assert data.folds(5, 0) != data.folds(5, 1)


def test_more_folds_than_patients_are_refused():
    with pytest.raises(OptionError, match="5 folds cannot be made of 3 patients"):
        dataset([0, 1, 2, 2, 1]).folds(5, 0)


def test_case_names_must_differ():
    case = Case(id="a", images=(Path("a.png"),))
    with pytest.raises(DataError, match="case names must differ, but a appears 2 times"):
        Dataset(name="x", folder=Path("x"), channels=("g",), labels=Labels(names={"a": (1,)}), training=(case, case))
