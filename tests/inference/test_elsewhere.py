"""Masks made on a cluster are those made here, one a case with one line in the record, also where a worker dies."""

import json
from dataclasses import replace

import distributed
import pytest

from mambino import inference
from mambino.core.cluster import ClusterError
from mambino.core.options import PredictOptions
from mambino.errors import FileFormatError, OptionError
from mambino.inference import predict
from mambino.inference.elsewhere import Order, Parked, _settle
from mambino.inference.ledger import Entry
from mambino.models import MODELS
from tests.clusters import Waiting, heard, killing, two_workers, workers_with
from tests.inference.test_predict import images as images  # noqa: PLC0414 - a fixture
from tests.inference.test_predict import model as model  # noqa: PLC0414 - a fixture
from tests.inference.test_predict import statuses, volume
from tests.tiny import know

pytestmark = pytest.mark.slow  # processes of a cluster, some of which are killed


class Knowing(distributed.WorkerPlugin):
    """Lets workers build the network of these tests."""

    name = "knowing"

    def setup(self, worker):  # noqa: ARG002 - Dask's
        MODELS["tiny"] = "tests.tiny:Tiny"


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    know(monkeypatch)


@pytest.fixture(scope="module")
def there():
    with two_workers() as address, workers_with(address, Knowing()):
        yield PredictOptions(scheduler=address, threads=1)


HERE = PredictOptions(threads=1)


def files(folder):
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    record = json.loads(found.pop("predict.json"))
    for entry in record["entries"]:
        del entry["seconds"]
    return found, record


def test_a_cluster_makes_what_is_made_here(tmp_path, model, images, there):
    predict(model, images, tmp_path / "here", replace(HERE, probabilities=True))
    steps, progress = heard()
    made = predict(model, images, tmp_path / "there", replace(there, probabilities=True), progress=progress)
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert statuses(made) == {f"case_{i}": "made" for i in range(3)}
    assert [step[:2] for step in steps] == [*((i, 3) for i in range(4)), (3, 3)]
    assert statuses(predict(model, images, tmp_path / "there", replace(HERE, probabilities=True))) == {
        f"case_{i}": "kept" for i in range(3)
    }


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", ["write_result", "_saved"])
def test_a_worker_killed_over_a_case_loses_nothing_and_nothing_is_there_twice(tmp_path, model, images, name, after):
    predict(model, images, tmp_path / "here", HERE)
    notes = tmp_path / "notes"
    notes.mkdir()
    plugin = Waiting((inference, name), "case_1", notes, after=after)
    with (
        two_workers() as address,
        workers_with(address, Knowing()),
        workers_with(address, plugin),
        killing(notes / "waits"),
    ):
        made = predict(model, images, tmp_path / "there", PredictOptions(scheduler=address, threads=1))
    assert (notes / "waits").exists()
    assert statuses(made) == {f"case_{i}": "made" for i in range(3)}
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == [
        *(f"case_{i}.nii.gz" for i in range(3)), "predict.json",
    ]  # fmt: skip


def test_a_bad_image_does_not_stop_the_others(tmp_path, model, images, there):
    volume(images / "case_1.nii.gz").write_bytes(b"no image")
    made = predict(model, images, tmp_path / "out", there)
    assert statuses(made) == {"case_0": "made", "case_1": "failed", "case_2": "made"}
    assert "case_1.nii.gz" in made.entries[1].message


def test_what_concerns_all_cases_ends_the_run(tmp_path, model, images, there):
    with pytest.raises(OptionError, match="the device mps is asked for"):
        predict(model, images, tmp_path / "out", replace(there, device="mps"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predict.json"]


def test_a_case_that_kills_workers_fails_by_its_name(tmp_path):
    kept = []
    order = Order(None, (), tmp_path / "a.nii.gz", None, HERE, Entry(case="a", status="failed"))
    order = replace(order, case=type("Case", (), {"id": "a"}))
    _settle(ClusterError("case a: its worker died", hint="more memory"), order, kept.append)
    assert [(entry.case, entry.status, entry.message) for entry in kept] == [
        ("a", "failed", "case a: its worker died (more memory)")
    ]


def test_a_mask_that_cannot_be_named_ends_the_run(tmp_path):
    order = Order(None, (), tmp_path / "gone" / "a.nii.gz", None, HERE, None)
    (tmp_path / "parked").touch()
    with pytest.raises(FileFormatError, match=r"a\.nii\.gz cannot be written"):
        _settle(Parked(Entry(case="a", status="made"), tmp_path / "parked"), order, lambda _: None)


def test_the_record_names_no_scheduler(tmp_path, model, images, there):
    predict(model, images, tmp_path / "out", there)
    assert there.scheduler not in (tmp_path / "out" / "predict.json").read_text()
