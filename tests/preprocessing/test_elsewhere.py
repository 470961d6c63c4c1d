"""Cases prepared on a cluster have the bytes of those prepared here, also where a worker dies over one of them."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from mambino import preprocessing
from mambino.core.options import PreprocessOptions
from mambino.errors import DataError, MambinoWarning
from mambino.preprocessing import preprocess, store
from mambino.preprocessing.store import Store
from tests.clusters import Waiting, heard, killing, two_workers, workers_with
from tests.preprocessing.test_preprocessing import HERE, IDS, contents, save
from tests.preprocessing.test_preprocessing import data as data  # noqa: PLC0414 - a fixture
from tests.preprocessing.test_preprocessing import work as work  # noqa: PLC0414 - a fixture

pytestmark = pytest.mark.slow  # processes of a cluster, some of which are killed


@pytest.fixture(scope="module")
def there():
    with two_workers() as address:
        yield PreprocessOptions(scheduler=address)


def prepared_here(work):
    preprocess(work, HERE)
    made = contents(work / "prepared" / "3d")
    shutil.rmtree(work / "prepared")
    return made


def test_a_cluster_gives_the_bytes_of_one_process_and_says_how_far_it_is(work, there, monkeypatch):
    alone = prepared_here(work)
    steps, progress = heard()
    monkeypatch.chdir(work.parent)
    assert (
        preprocess(work.relative_to(work.parent), there, progress=progress)
        == work.relative_to(work.parent) / "prepared"
    )
    assert contents(work / "prepared" / "3d") == alone
    assert steps[0] == (0, 4, "kept")
    assert [step[:2] for step in steps[1:]] == [(i, 4) for i in range(1, 5)]
    assert sorted(name for _, _, name in steps[1:]) == list(IDS)
    assert [path.name for path in (work / "prepared").iterdir()] == ["3d"]


@pytest.mark.parametrize(("place", "prepared"), [((store, "write"), 5), ((preprocessing, "_prepare_one"), 4)])
def test_a_worker_killed_over_a_case_loses_nothing_and_nothing_is_done_twice(work, tmp_path, place, prepared):
    # Killed with the record not yet written, the case is prepared again; killed after that, it is not.
    alone = prepared_here(work)
    notes = tmp_path / "notes"
    notes.mkdir()
    plugin = Waiting(place, "case_1", notes, after=place[1] == "_prepare_one")
    with two_workers() as address, workers_with(address, plugin), killing(notes / "waits"):
        preprocess(work, PreprocessOptions(scheduler=address))
    assert contents(work / "prepared" / "3d") == alone
    assert (notes / "waits").exists()
    assert len((notes / "calls").read_text().splitlines()) == prepared


def test_a_bad_case_is_named_and_the_others_are_done(work, data, there):
    save(data / "imagesTr" / "case_1_0000.nii.gz", np.full((11, 10, 9), np.nan, np.float32))
    with pytest.raises(DataError, match=r"^case case_1: the image is not finite in 990 of 990 voxels") as caught:
        preprocess(work, there)
    assert caught.value.hint == "mend a copy: mambino check DATA --repair -o COPY"
    assert Store(work / "prepared" / "3d").ids() == ("case_0", "case_2", "case_3")


def test_a_number_of_processes_is_said_to_be_unused(work, there):
    with pytest.warns(MambinoWarning, match="^--workers 2 is not used with --scheduler: each worker of the cluster"):
        preprocess(work, replace(there, workers=2))


def test_what_is_there_needs_no_cluster(work):
    preprocess(work, HERE)
    steps, progress = heard()
    preprocess(work, PreprocessOptions(scheduler="tcp://127.0.0.1:9"), progress=progress)
    assert steps == [(4, 4, "kept")]
