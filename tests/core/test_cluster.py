"""Each job of a cluster is answered for once, however often workers die; what cannot work is said in one sentence."""

import json
import shutil
import subprocess
import sys
import types
import warnings
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import distributed
import pytest

from mambino.core import cluster
from mambino.core.cluster import Caller, ClusterError, _check_versions, _obey, _Order, clear, meeting_place, tasks
from mambino.errors import DataError, FileFormatError, MambinoWarning, MissingExtraError
from tests import clusters
from tests.clusters import killing, two_workers, until

pytestmark = pytest.mark.slow  # processes of a cluster, some of which are killed


@pytest.fixture(scope="module")
def address():
    with two_workers() as found:
        yield found


def results(address, work, jobs, folder, **options):
    with meeting_place(folder) as place, tasks(address, work, jobs, place, **options) as ended:
        return dict(ended)


def named(folder, *names):
    return {f"case {name}": (name, folder) for name in names}


def order(place, work=clusters.refuse, job="this"):
    return _Order(work, job, place, version("mambino"), "", 0)


def test_every_job_is_answered_for_once_and_heard(address, tmp_path):
    told = []
    answers = results(address, clusters.note, named(tmp_path, *"abcdefgh"), tmp_path, hear=told.append)
    assert answers == {f"case {name}": name.upper() for name in "abcdefgh"}
    assert sorted(path.name for path in tmp_path.iterdir()) == list("abcdefgh")
    assert {path.read_text() for path in tmp_path.iterdir()} == {"done\n"}
    assert sorted(told) == [f"hello {name}" for name in "abcdefgh"]


def test_no_jobs_have_no_answers(address, tmp_path):
    assert results(address, clusters.note, {}, tmp_path) == {}


def test_a_job_whose_worker_is_killed_is_done_by_another(address, tmp_path):
    with killing(tmp_path / "waits"):
        answers = results(address, clusters.die, named(tmp_path, "once", "b", "c"), tmp_path)
    assert answers == {"case once": "ONCE", "case b": "B", "case c": "C"}
    assert [(tmp_path / name).read_text() for name in ("once", "b", "c")] == ["done\n"] * 3


def test_a_job_that_kills_its_workers_is_named_and_the_others_are_done(address, tmp_path):
    answers = results(address, clusters.die, named(tmp_path, "always", "b"), tmp_path)
    assert answers["case b"] == "B"
    problem = answers["case always"]
    assert isinstance(problem, ClusterError)
    assert str(problem).startswith("case always: its worker died, 2 times of 2 allowed, the last at tcp://")
    assert "more memory" in problem.hint


def test_errors_of_ours_travel_with_their_hints_and_their_class(address, tmp_path):
    with pytest.raises(DataError, match=r"^case a is no image$") as caught:
        results(address, clusters.refuse, {"case a": "case a"}, tmp_path)
    assert caught.value.hint == "look at it"
    assert list(tmp_path.iterdir()) == []


def test_bugs_travel_with_the_name_of_the_job(address, tmp_path):
    with pytest.raises(ZeroDivisionError) as caught:
        results(address, clusters.stumble, {"case a": "a"}, tmp_path)
    assert caught.value.__notes__ == ["while working on case a"]


def test_warnings_are_given_where_somebody_reads_them(address, tmp_path):
    with pytest.warns(MambinoWarning, match="^case a was read in part$"):
        results(address, clusters.warn, {"case a": "case a"}, tmp_path)


def test_leaving_cancels_what_has_not_begun(address, tmp_path):
    jobs = named(tmp_path, *map(str, range(12)))

    def begun():
        return len(list(tmp_path.glob("begun-*")))

    with meeting_place(tmp_path) as place, tasks(address, clusters.linger, jobs, place):
        until(lambda: begun() == 2)
    (tmp_path / "go").touch()
    with distributed.Client(address, set_as_default=False) as client:
        until(lambda: not any(client.processing().values()))
    assert begun() == 2


@pytest.mark.parametrize(("answer", "shown"), [("9.9", "9.9"), (PackageNotFoundError("mambino"), "none")])
def test_workers_without_this_mambino_are_named(answer, shown):
    asked = types.SimpleNamespace(run=lambda *_, **__: {"tcp://a:1": version("mambino"), "tcp://b:1": answer})
    words = f"^the worker tcp://b:1 has mambino {shown}, who gives it work has {version('mambino')}$"
    with pytest.raises(ClusterError, match=words) as caught:
        _check_versions(asked)
    assert caught.value.hint == "start scheduler and workers from an installation like that of this program"


@pytest.fixture
def lonely(tmp_path):
    """Lend a scheduler, a process of its own without workers, and its address."""
    words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", ":0", "--scheduler-file"]
    file = tmp_path / "scheduler.json"
    with subprocess.Popen([sys.executable, "-m", "dask", *words, file], stderr=subprocess.DEVNULL) as process:
        try:
            until(file.exists)
            until(lambda: file.read_text().endswith("}"))
            yield process, json.loads(file.read_text())["address"]
        finally:
            process.kill()


@pytest.mark.filterwarnings("ignore:the scheduler .* has no workers yet")
def test_a_scheduler_that_lacks_the_function_is_no_riddle(lonely, tmp_path, monkeypatch):
    here = types.ModuleType("only_here")
    exec("def work(job, tell):\n    return job", here.__dict__)
    here.work.__module__ = "only_here"
    monkeypatch.setitem(sys.modules, "only_here", here)
    with pytest.raises(ClusterError, match="the cluster cannot read what it is given: Error during deserialization"):
        results(lonely[1], here.work, {"case a": 1}, tmp_path)


def test_a_scheduler_without_workers_is_waited_for_aloud_and_missed_when_it_goes(lonely, tmp_path):
    process, place = lonely
    with ExitStack() as stack:
        folder = stack.enter_context(meeting_place(tmp_path))
        with pytest.warns(MambinoWarning, match="has no workers yet: work waits for them"):
            ended = stack.enter_context(tasks(place, clusters.note, named(tmp_path, "a"), folder))
        process.kill()
        with pytest.raises(ClusterError, match=r"went away while case a was being worked on") as caught:
            next(ended)
    assert "goes on from here" in caught.value.hint


@pytest.mark.parametrize("place", ["tcp://127.0.0.1:9", "somewhere", "gopher://here:70"])
def test_a_scheduler_that_is_not_there_is_named(place, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 0.2)
    with pytest.raises(ClusterError, match=rf"^--scheduler {place}: no Dask scheduler answers there \(") as caught:
        results(place, clusters.note, {}, tmp_path)
    assert "dask scheduler" in caught.value.hint
    assert caught.value.exit_code == 5


def in_here(**changes):
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": ":0"}
    return distributed.LocalCluster(**options | changes)


def test_threads_that_would_wait_are_spoken_of(tmp_path):
    words = "has 3 threads, but does one case at a time"
    with in_here(threads_per_worker=3) as made, pytest.warns(MambinoWarning, match=words):
        results(made.scheduler_address, clusters.note, {}, tmp_path)


def test_a_worker_with_another_file_system_refuses(tmp_path):
    outcome = _obey(order(tmp_path / "elsewhere"))
    assert isinstance(outcome.error, ClusterError)
    assert f"does not find {tmp_path / 'elsewhere'}: it has another file system" in str(outcome.error)
    assert "one file system" in outcome.error.hint


def test_a_worker_that_is_not_waited_for_or_was_replaced_stops(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "begun-1-a").touch()
    (place / "begun-11-a").touch()
    caller = Caller("topic", place, "begun-1-*", 1)
    caller.check()
    (place / "begun-1-b").touch()
    with pytest.raises(ClusterError, match=r"counts as dead, and another has begun with what it was at$") as caught:
        caller.check()
    assert "network or the memory" in caught.value.hint
    shutil.rmtree(place)
    with pytest.raises(ClusterError, match="or is no longer waited for"):
        caller.check()


def test_a_worker_knows_when_another_begins_with_its_job(tmp_path):
    with meeting_place(tmp_path) as place:
        assert _obey(order(place, clusters.look_again, "alone")).result == "alone"
        assert "counts as dead" in str(_obey(order(place, clusters.look_again, "with another")).error)


def test_a_worker_of_another_version_refuses(tmp_path):
    outcome = _obey(replace(order(tmp_path), version="9.9"))
    assert f"has mambino {version('mambino')}, who gives it work has 9.9" in str(outcome.error)


def test_a_worker_answers_with_errors_and_warnings_as_values(tmp_path):
    assert str(_obey(order(tmp_path)).error) == "this is no image"
    with warnings.catch_warnings(record=True) as escaped:
        warnings.simplefilter("always")
        assert _obey(order(tmp_path, clusters.warn)).warned == ("this was read in part",)
    assert escaped == []


def test_meeting_places_go_and_forgotten_ones_are_cleared(tmp_path):
    with meeting_place(tmp_path / "new") as place:
        assert place.is_dir()
        assert place.is_absolute()
        (place / "left").touch()
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / ".part-cluster-old").mkdir()
    (tmp_path / "mask").touch()
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] in (["new", "mask"], ["mask", "new"])


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileFormatError, match="file cannot be written"), meeting_place(tmp_path / "file"):
        pass


def test_without_dask_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match="--scheduler needs the package distributed") as caught:
        results("tcp://here:1", clusters.note, {}, tmp_path)
    assert caught.value.hint == "pip install 'mambino[cluster]'"


class Slurm:
    """Stands in for dask_jobqueue's cluster: workers are in this process."""

    def __init__(self, made):
        self.made, self.asked, self.scheduler_address = made, [], made.scheduler_address

    def adapt(self):
        self.asked.append("adapt")

    def close(self):
        self.asked.append("close")


def test_slurm_is_asked_for_workers_and_let_go(tmp_path, monkeypatch):
    with in_here() as made:
        slurm = Slurm(made)
        module = types.SimpleNamespace(SLURMCluster=lambda: slurm)
        monkeypatch.setitem(sys.modules, "dask_jobqueue", module)
        monkeypatch.setattr(distributed, "Client", client_of(distributed.Client))
        assert results("slurm", clusters.note, named(tmp_path, "a"), tmp_path) == {"case a": "A"}
    assert slurm.asked == ["adapt", "close"]


def client_of(original):
    return lambda given, **options: original(getattr(given, "made", given), **options)


def test_slurm_without_a_description_of_its_jobs_is_an_error(tmp_path, monkeypatch):
    def refuse():
        raise ValueError("You must specify how many cores to use per job like ``cores=8``")

    monkeypatch.setitem(sys.modules, "dask_jobqueue", types.SimpleNamespace(SLURMCluster=refuse))
    with pytest.raises(ClusterError, match=r"Dask does not know how to ask for workers \(You must specify") as caught:
        results("slurm", clusters.note, {}, tmp_path)
    assert "jobqueue.yaml" in caught.value.hint
