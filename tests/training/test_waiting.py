"""Threads that prepare batches are watched: errors are raised in their turn, and what hangs is named, then given up."""

import os
import signal
import threading
import time
from itertools import islice

import pytest
import torch

from mambino.errors import DataError, MambinoWarning
from mambino.training import sampling, waiting
from mambino.training.interrupt import after_the_step
from mambino.training.precision import Precision
from mambino.training.sampling import HeldCase
from mambino.training.validation import look
from mambino.training.waiting import AHEAD, reading, stream
from tests.training.test_sampling import source
from tests.training.toys import TWO, Toy, case, config


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_stream_is_in_order_and_ends_when_closed(workers):
    numbers = stream(lambda k: k * k, 5, workers)
    assert list(islice(numbers, 6)) == [25, 36, 49, 64, 81, 100]
    numbers.close()


def test_workers_leave_the_threads_of_torch_alone():
    before = torch.get_num_threads()
    numbers = stream(lambda k: torch.ones(3) * k, 0, 2)
    list(islice(numbers, 8))
    assert torch.get_num_threads() == before
    numbers.close()


def test_no_more_is_prepared_than_is_wanted_and_no_thread_stays():
    asked, before = [], threading.active_count()
    numbers = stream(asked.append, 0, 2)
    next(numbers)
    assert threading.active_count() == before + 3  # one of them watches
    numbers.close()
    assert max(asked) <= AHEAD
    assert threading.active_count() == before


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt()])
def test_what_ends_a_thread_is_raised_in_its_turn(error):
    def make(number):
        if number == 2:
            raise error
        return number

    numbers = stream(make, 0, 2)
    assert [next(numbers), next(numbers)] == [0, 1]
    with pytest.raises(type(error)):
        next(numbers)


class Stuck(HeldCase):
    """A case whose disk answers when told to."""

    answer = threading.Event()

    def image_patch(self, start, stop):
        assert Stuck.answer.wait(30)
        return HeldCase.image_patch(self, start, stop)


def stuck():
    Stuck.answer.clear()
    whole = case(name="liver_4")
    return Stuck(whole.id, whole.shape, whole.locations, whole.image, whole.labels)


def test_a_case_whose_disk_is_slow_is_named_and_the_run_goes_on():
    numbers = stream(source([stuck()]), 0, 2, slow=0.1, hung=20)
    threading.Timer(0.4, Stuck.answer.set).start()
    with pytest.warns(
        MambinoWarning, match=r"no batch for 0\.1 s: case liver_4 has been read for 0\.\d+ s, .*until 20 s"
    ):
        batch = next(numbers)
    assert torch.equal(batch.images, source([case(name="liver_4")])(0).images)
    numbers.close()


@pytest.mark.filterwarnings("ignore:no batch")
def test_a_case_whose_disk_is_dead_ends_the_run_with_its_name():
    numbers = stream(source([stuck()]), 0, 2, slow=0.1, hung=0.3)
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"no batch for 0\.3 s: case liver_4 has been read for 0\.\d+ s"):
        next(numbers)
    assert time.monotonic() - begin < 10  # the threads are not waited for
    Stuck.answer.set()


def test_a_run_that_ends_does_not_wait_for_a_dead_disk(monkeypatch):
    monkeypatch.setattr(waiting, "LEAVING", 0.1)
    begun, answer = threading.Event(), threading.Event()

    def make(number):
        with reading("case liver_4"):
            begun.set()
            assert number == 0 or answer.wait(30)

    numbers = stream(make, 0, 1)
    next(numbers)
    numbers.close()
    assert begun.is_set()
    assert not answer.is_set()
    answer.set()


def test_a_second_ctrl_c_ends_the_wait(monkeypatch):
    monkeypatch.setattr(waiting, "LEAVING", 0.1)
    numbers = stream(source([stuck()]), 0, 1)
    pressing = [threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT)) for after in (0.3, 0.6)]
    for timer in pressing:
        timer.start()
    with pytest.raises(KeyboardInterrupt), after_the_step() as check:  # noqa: PT012
        next(numbers)
        check()
    for timer in pressing:
        timer.join()
    assert not Stuck.answer.is_set()
    Stuck.answer.set()


@pytest.mark.parametrize("how", ["a patch", "a case to validate on"])
def test_what_the_thread_that_learns_reads_is_watched_as_well(how):
    threading.Timer(0.4, Stuck.answer.set).start()
    numbers = stream(source([stuck() if how == "a patch" else case()]), 0, 0, slow=0.1)
    with pytest.warns(MambinoWarning, match=r"^case liver_4 has been read for 0\.\d+ s; waiting on$") as seen:  # noqa: PT031
        next(numbers)
        if how != "a patch":
            look(Toy().eval(), stuck(), config(), TWO, Precision(torch.device("cpu")))
        numbers.close()
    assert len(seen) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_of_ours_names_the_case_as_well(monkeypatch, workers):
    def fails(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(sampling, "mirror", fails)
    with pytest.raises(ZeroDivisionError) as caught:
        next(stream(source([case(name="liver_4")]), 0, workers))
    assert caught.value.__notes__ == ["while a patch of case liver_4 was made"]


@pytest.mark.filterwarnings("ignore:no batch")
def test_where_nothing_is_read_that_is_said():
    begun = threading.Event()
    numbers = stream(lambda _: begun.wait(2), 0, 1, slow=0.05, hung=0.1)
    with pytest.raises(DataError, match=r"no batch for 0\.1 s: nothing is being read"):
        next(numbers)
    begun.set()


def fails():
    assert [what for what, _ in waiting._READING.values()] == ["liver_4"]
    raise OSError("gone")


def test_what_was_read_is_forgotten_also_after_an_error():
    with pytest.raises(OSError, match="gone"), reading("liver_4"):
        fails()
    assert not waiting._READING
