"""Peak memory of a network, measured: one pass, or one step of training, in a process of its own."""

import contextlib
import subprocess
import sys
from pathlib import Path

from mambino.core.plan import NetworkSpec
from mambino.core.records import dump, parse, record
from mambino.errors import OptionError

STATUS = Path("/proc/self/status")


@record
class Measured:
    """Peaks of resident memory beside the weights and what the program itself takes (bytes).

    Attributes:
        inference: of a pass forward.
        training: of a pass forward and backward, with the gradients of the weights and without an optimiser.
    """

    inference: int
    training: int


@record
class Request:
    """What to measure: a network, an image's size (voxels), and which of the two passes."""

    network: NetworkSpec
    size: tuple[int, ...]
    training: bool


def peaks(spec: NetworkSpec, size: tuple[int, ...]) -> Measured:
    """Run a network on one image of noise, in float32 on the CPU, and return the peaks of memory (VmHWM of Linux).

    Each of the two numbers is of a fresh process, so that neither sees what another left behind. What libraries
    take when they are first used, some tens of MiB, is part of both.

    Raises:
        OptionError: this is not Linux, or a process ended early, most often for want of memory.
    """
    if not STATUS.exists():
        raise OptionError(
            f"peak memory is measured on Linux alone, this is {sys.platform}", hint="without measuring it is counted"
        )
    return Measured(
        inference=_in_a_process(Request(network=spec, size=size, training=False)),
        training=_in_a_process(Request(network=spec, size=size, training=True)),
    )


def _in_a_process(request: Request) -> int:
    command = [sys.executable, "-P", "-m", "mambino.models.measuring"]
    done = subprocess.run(command, input=dump(request), capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"signal {-done.returncode}"])[-1]
        what = "a step of training" if request.training else "a pass"
        raise OptionError(
            f"{what} of {request.network.name} on {request.size} ended early: {why}",
            hint="it may need more memory than this machine has; without measuring, memory is counted",
        )
    return int(done.stdout)


def peak(request: Request) -> int:
    """Run the pass that is asked for, here, and return the peak of memory beyond what was held before (bytes)."""
    import torch  # noqa: PLC0415 - in the process that measures alone

    from mambino.models import build  # noqa: PLC0415

    network = build(request.network)
    x = torch.randn(1, request.network.in_channels, *request.size)
    # 5 sets the peak back to what is held now; where that is forbidden, the peak of the imports stays the least.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _resident("VmRSS")
    if request.training:
        total = torch.stack([logits.square().mean() for logits in network.scales(x)]).sum()  # type: ignore[operator]
        total.backward()  # type: ignore[no-untyped-call]
    else:
        with torch.no_grad():
            network.eval()(x)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    """Return a number of /proc/self/status (bytes)."""
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(peak(parse(Request, sys.stdin.read(), "standard input")))  # noqa: T201 - the answer to the process that asked
