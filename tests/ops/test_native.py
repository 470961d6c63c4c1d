"""The library is used where it is, said to be missing where it is not, and takes no harm from calls or threads."""

import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambino.errors import Error, MambinoWarning
from mambino.ops.selective_scan import native, portable, scan_tokens
from mambino.ops.selective_scan.operator import path

needed = pytest.mark.skipif(bool(native.missing()), reason=native.missing() or "the library is here")


def scan_once(seed=0, length=3000):
    generator = torch.Generator().manual_seed(seed)
    u, delta = torch.randn(2, 1, length, 32, generator=generator)
    B, C = torch.randn(2, 1, length, 8, generator=generator)
    A = -torch.rand(32, 8, generator=generator) - 0.1
    return scan_tokens(u, delta, A, B, C, softplus=True)[0]


@needed
def test_the_best_instruction_set_is_taken_and_others_may_be_forced():
    assert path("cpu") == f"native {native.instruction_sets()[0]}" or "MAMBINO_ISA" in os.environ
    assert native.instruction_sets()[-1] == "plain"
    with pytest.raises(Error, match="the instruction set 'mmx' is not to be had here"):
        native.use_instruction_set("mmx")


@needed
@pytest.mark.parametrize(("isa", "status"), [("plain", 0), ("mmx", 1)])
def test_an_instruction_set_may_be_forced_from_outside(isa, status):
    program = "from mambino.ops.selective_scan import native; print(native.instruction_set())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"MAMBINO_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    assert (isa in done.stdout) if status == 0 else (f"MAMBINO_ISA is {isa}" in done.stderr)


def test_without_the_library_the_first_call_says_so_once(monkeypatch):
    monkeypatch.setattr(native, "missing", lambda: "there was no compiler")
    portable.warn_once.cache_clear()
    assert path("cpu") == "chunked torch"
    with pytest.warns(MambinoWarning, match=r"portable form, about .* slower: there was no compiler"):
        first = scan_once()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(scan_once(), first)
    monkeypatch.undo()
    torch.testing.assert_close(scan_once(), first, rtol=1e-4, atol=1e-4)


@needed
def test_threads_of_python_may_call_it_together():
    expected = [scan_once(seed) for seed in range(8)]
    found = [None] * 8

    def work(seed):
        for _ in range(5):
            found[seed] = scan_once(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@needed
@pytest.mark.skipif(sys.platform != "linux", reason="torch's threads are found on Linux alone")
def test_torchs_own_threads_do_the_work_and_give_the_same_bits():
    library, lent = native._library(), native._team()
    assert lent is not None
    calls = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    def team(body, context, threads, _):
        calls.append(threads)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(body)(context)

    found, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for address in (lent, None, ctypes.cast(team, ctypes.c_void_p).value):
            library.mambino_use_team(address)
            found.append(scan_once())
    finally:
        library.mambino_use_team(lent)
        torch.set_num_threads(before)
    assert calls == [2]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def _in_child(queue, expected):
    queue.put(all(bool(torch.equal(scan_once(seed), x)) for seed, x in enumerate(expected)))


@needed
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_it_works_after_a_fork():
    expected = [scan_once(seed) for seed in range(3)]  # the threads are there now, and not in the child
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue, expected))
    child.start()
    assert queue.get(timeout=60)
    child.join(10)
    assert child.exitcode == 0


@needed
def test_denormal_numbers_of_the_caller_stay_as_they_are():
    tiny = torch.full((4,), 1e-40)
    scan_once()
    assert bool((tiny * 1.0 > 0).all())


Sizes = st.integers(-3, 40) | st.sampled_from([2**31, 2**40, -(2**62), 2**62])


@needed
@settings(max_examples=300, deadline=None)
@given(
    sizes=st.fixed_dictionaries(dict.fromkeys(("batch", "length", "channels", "states", "groups", "rank"), Sizes)),
    missing=st.sets(st.sampled_from(["u", "delta", "B", "C", "y", "A", "none"]), max_size=2),
    size=st.sampled_from([0, 2, 4, 8, 16]),
    threads=st.integers(-2, 5),
)
def test_the_interface_refuses_what_cannot_be(sizes, missing, size, threads):
    # Whatever is accepted reads and writes within this room: all rows lie on top of one another.
    room = (ctypes.c_double * 500_000)()
    there = ctypes.addressof(room)
    call = native._Scan(**sizes)
    for name in {"u", "delta", "B", "C", "y"} - missing:
        setattr(call, name, native.Rows(there, 0, 0, 0))
    call.A = None if "A" in missing else there
    call.W = there
    fits = all(sizes[name] <= 40 for name in ("batch", "length", "channels", "states", "rank"))
    if not fits and all(value >= 0 for value in sizes.values()):
        return  # sizes that are possible, but not within our room
    status = native._library().mambino_scan_forward(ctypes.byref(call), size, threads)
    assert status in {0, 1, 3}
    if status:
        assert b"got" in native._library().mambino_message()
    wrong = min(sizes[name] for name in ("batch", "length", "channels", "states", "groups")) < 1 or sizes["rank"] < 0
    if wrong or missing - {"none"} or size not in {4, 8}:
        assert status


@needed
def test_an_order_that_leaves_the_sequence_is_refused():
    u, A = torch.zeros(1, 6, 4), -torch.ones(4, 2)
    B = torch.zeros(1, 6, 2)
    order = torch.tensor([0, 1, 2, 3, 4, 6], dtype=torch.int32)
    with pytest.raises(
        Error, match="the native scan was called wrongly: the order must name tokens of the sequence, got 6"
    ):
        scan_tokens(u, u, A, B, B, order=order)
