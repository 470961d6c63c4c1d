"""A run takes no more memory than its plan says, the data it may hold, and one case."""

import json
import math
import subprocess
import sys

import pytest

from tests.places import DATA, needs_shared

GIB = 2**30

_RUN = """
import resource, sys
from pathlib import Path
from mambino.core.options import TrainOptions
from mambino.training import train
train(Path(sys.argv[1]), TrainOptions(epochs=2, config=sys.argv[2], precision="float32"))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@needs_shared
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is counted in kilobytes on Linux")
@pytest.mark.parametrize("model", ["unet", "lightm_unet"])
def test_a_run_stays_within_what_the_plan_and_the_page_say(tmp_path, model):
    def mambino(*words):
        subprocess.run([sys.executable, "-m", "mambino", *words], check=True, capture_output=True)

    work = tmp_path / "work"
    mambino("plan", str(DATA / "hippocampus"), "-o", str(work), "--minutes", "5", "--model", model)
    mambino("preprocess", str(work))
    plan = json.loads((work / "plan.json").read_text())
    name = next(name for name in plan["configs"] if name.endswith(f"3d-{model}"))
    config = plan["configs"][name]
    config["recipe"]["steps"] = 10
    (work / "plan.json").write_text(json.dumps(plan))
    done = subprocess.run([sys.executable, "-c", _RUN, str(work), name], check=True, capture_output=True, text=True)
    peak = int(done.stdout.split()[-1])
    sizes = [math.prod(case["shape"]) for case in json.loads((work / "fingerprint.json").read_text())["cases"]]
    held = (4 + 2) * sum(sizes)  # voxels and labels of the data set
    look = (4 + 2 + 4 * config["network"]["out_channels"]) * max(sizes)
    assert held < peak < 1.25 * config["memory"] * GIB + held + look
