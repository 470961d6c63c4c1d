"""Where tests find data: in the repository, and in the shared folder beside it when it is there."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
DATA = SHARED / "data"
GOLDEN = ROOT / "tests" / "golden"
HIPPOCAMPUS = ROOT / "examples" / "hippocampus"

needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason="the shared data sets are not beside this checkout")
