"""What tests of operators share."""

import pytest

from mambino.ops.selective_scan import native, portable


@pytest.fixture(params=["native", "portable"])
def with_and_without_the_library(request, monkeypatch):
    """Run a test with the C++ library, and with torch alone."""
    if request.param == "portable":
        monkeypatch.setattr(native, "missing", lambda: "a test asks for it")
    elif native.missing():
        pytest.skip(native.missing())


PATHS = (*(() if native.missing() else native.instruction_sets()), "portable")


@pytest.fixture(scope="module", params=PATHS)
def path(request):
    """Run tests on each path that this machine has: the library's instruction sets, and torch alone."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "portable":
            patch.setattr(native, "missing", lambda: "a test asks for it")
            patch.setattr(portable, "warn_once", lambda *_: None)
            yield request.param
        else:
            before = native.instruction_set()
            native.use_instruction_set(request.param)
            yield request.param
            native.use_instruction_set(before)
