"""What tests of operators share."""

import pytest

from mambino.ops.selective_scan import native


@pytest.fixture(params=["native", "portable"])
def with_and_without_the_library(request, monkeypatch):
    """Run a test with the C++ library, and with torch alone."""
    if request.param == "portable":
        monkeypatch.setattr(native, "missing", lambda: "a test asks for it")
    elif native.missing():
        pytest.skip(native.missing())
