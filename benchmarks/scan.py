"""The selective scan beside what people have today, and beside the arithmetic limit of the processor.

    python benchmarks/scan.py [--json FILE] [--rounds 5] [--device cpu] [--sizes 4096x192x16 ...] [--slow]

Contenders, on the same inputs in one run, their rounds interleaved, medians: `mambino`; `chunked`, our form in plain
torch; `loop`, a loop over the steps with the semantics of mamba_ssm's reference; `easy`, the form of VMamba that
divides by cumulative decays over chunks of 64; `mambapy`, the parallel scan of that package (`pip install
'mambino[bench]'`). One that would need more than `--memory`, or by the size before more than `--patience` seconds, is
left out and said so. `floor`: vector instructions of the forward inner loop, counted, over the rate at which this
processor issues multiply-adds, measured; it has no backward form.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mambino.ops.selective_scan import native, portable, scan_tokens
from mambino.ops.selective_scan.inputs import Inputs

SIZES = ("4096x192x16", "16384x256x16", "65536x128x16", "262144x64x16", "3136x192x1", "65536x8x16")
INSTRUCTIONS = {"avx512": 12, "avx2": 13, "neon": 13, "plain": 18}
"""Vector instructions that move one vector of states on by a step: 9 for the decay (10 without scalef), and 3."""
LANES = {"avx512": 16, "avx2": 8, "neon": 4, "plain": 4}
Scan = Callable[..., Tensor]


def main() -> None:
    """Measure every size and direction, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--memory", type=float, default=6.0, help="that a contender may need (GiB)")
    parser.add_argument("--patience", type=float, default=20.0, help="that one call may take (s)")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    describe(options.device)
    for threads in options.threads if options.device == "cpu" else [1]:
        torch.set_num_threads(threads)
        pace: dict[tuple[str, str], float] = {}
        for case in options.sizes:
            rows += measured(case, threads, options, pace)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def describe(device: str) -> None:
    """Print what is measured on."""
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    if device == "cuda":
        print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}")
        return
    print(f"{processor()}; torch {torch.__version__}; {load}")
    if not native.missing():
        rate, isa = native.issue_rate(), native.instruction_set()
        print(
            f"{isa}: {rate / 1e9:.2f} G vector multiply-adds a second and thread; "
            f"{INSTRUCTIONS[isa]} instructions a step"
        )
    print("| tokens x channels x states | direction | threads | contender | median ms | times mambino | peak MB |")
    print("|---|---|---|---|---|---|---|")


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def measured(
    case: str, threads: int, options: argparse.Namespace, pace: dict[tuple[str, str], float]
) -> list[dict[str, object]]:
    """Measure one size forward and both ways; `pace` remembers the seconds a number of state."""
    length, channels, size = map(int, case.split("x"))
    work = options.batch * length * channels * size
    inputs = make(options.batch, length, channels, size, options.device)
    rows = []
    for direction in ("forward", "both"):
        chosen = able(work, length, direction, options, pace)
        times, peaks = interleaved(chosen, inputs, direction, options)
        pace |= {(name, direction): min(found) / work for name, found in times.items()}
        medians = {name: statistics.median(found[1:] or found) for name, found in times.items()}
        if direction == "forward" and options.device == "cpu" and not native.missing():
            medians["floor"] = floor(work) / threads
        rows += [row(case, direction, threads, name, medians, peaks.get(name)) for name in medians]
    return rows


def able(
    work: int, length: int, direction: str, options: argparse.Namespace, pace: dict[tuple[str, str], float]
) -> dict[str, Scan]:
    """Return the contenders that have the memory for a size, and by the sizes before are quick enough."""
    chosen = {}
    for name, scan in contenders().items():
        needs = 4 * work * STATES_KEPT[name] * (3 if direction == "both" else 1) / 2**30
        expected = pace.get((name, direction), 0.0) * work
        squared = name == "loop" and direction == "both" and length > LOOP_BACK
        if needs <= options.memory and expected <= options.patience and not squared:
            chosen[name] = scan
        else:
            print(f"| {work} numbers | {direction} | | {name} | left out: {needs:.1f} GiB, {expected:.0f} s | | |")
    return chosen


def interleaved(
    chosen: dict[str, Scan], inputs: dict[str, Tensor], direction: str, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Time all contenders round by round; slow ones are called once. Peaks are those of the first call (MB)."""
    times: dict[str, list[float]] = {name: [] for name in chosen}
    peaks = {}
    for number in range(options.rounds + 1):
        for name, scan in chosen.items():
            if times[name] and times[name][-1] > 1.0:
                continue
            before = resident(reset=True) if number == 0 else 0.0
            times[name].append(once(scan, inputs, direction, options.device))
            if number == 0:
                peaks[name] = resident() - before
    return times, peaks


def resident(*, reset: bool = False) -> float:
    """Return the most memory this process had since the last reset (MB); 0 where the system does not say."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


def floor(work: int) -> float:
    """Return the least time that the arithmetic of so many numbers of state takes on one thread (s)."""
    isa = native.instruction_set()
    return work / LANES[isa] * INSTRUCTIONS[isa] / native.issue_rate()


def row(
    case: str, direction: str, threads: int, name: str, medians: dict[str, float], peak: float | None
) -> dict[str, object]:
    """Print one line and return it."""
    median, ratio = medians[name], medians[name] / medians["mambino"]
    print(
        f"| {case} | {direction} | {threads} | {name} | {1e3 * median:.2f} | {ratio:.2f} | {peak or 0:.0f} |",
        flush=True,
    )
    found = {"case": case, "direction": direction, "contender": name, "threads": threads, "median_s": median}
    return found | {"peak_mb": peak}


def make(batch: int, length: int, channels: int, size: int, device: str) -> dict[str, Tensor]:
    """Return inputs as a network has them at its start, token-major."""
    torch.manual_seed(0)
    inputs = {
        "u": torch.randn(batch, length, channels),
        "delta": torch.rand(batch, length, channels) / 11,  # the default range ends at 0.1; `easy` gives NaN there
        "A": -torch.arange(1.0, size + 1).repeat(channels, 1),
        "B": torch.randn(batch, length, size),
        "C": torch.randn(batch, length, size),
        "D": torch.ones(channels),
    }
    return {name: x.to(device).requires_grad_() for name, x in inputs.items()}


def once(scan: Scan, inputs: dict[str, Tensor], direction: str, device: str) -> float:
    """Time one call (s), with its way back if asked for."""
    begin = time.perf_counter()
    if direction == "forward":
        with torch.no_grad():
            scan(**inputs)
    else:
        y = scan(**inputs)
        torch.autograd.grad(y, list(inputs.values()), torch.ones_like(y))
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def contenders() -> dict[str, Scan]:
    """Return what there is to compare here."""
    found: dict[str, Scan] = {"mambino": ours, "chunked": chunked, "loop": loop, "easy": easy}
    try:
        from mambapy.pscan import pscan  # type: ignore[import-untyped]
    except ImportError:
        return found
    return found | {"mambapy": lambda **inputs: parallel(pscan, **inputs)}


LOOP_BACK = 1024
"""Tokens up to which the loop is taken back: each step's gradient is as large as the sequence, minutes at 4096."""
STATES_KEPT = {"mambino": 0.1, "chunked": 0.2, "loop": 3.0, "easy": 4.0, "mambapy": 4.0}
"""How many tensors [b l d n] a contender holds at once, about."""


def ours(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    return scan_tokens(u, delta, A, B, C, D=D)[0]


def chunked(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    return _Chunked.apply(u, delta, A, B[:, :, None], C[:, :, None], D)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *given):
        inputs = Inputs(*given, None, None, None, None, None)
        y, last, saved = portable.scan(inputs, softplus=False, keep=True)
        ctx.save_for_backward(*given, saved, last)
        return y

    @staticmethod
    def backward(ctx, grad):
        *given, saved, last = ctx.saved_tensors
        inputs = Inputs(*given, None, None, None, None, None)
        return portable.scan_backward(grad, torch.zeros_like(last), inputs, saved, softplus=False)[:6]


def loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Step by step, with everything that does not depend on the step before computed ahead."""
    decay = torch.exp(delta[..., None] * A)
    gain = (delta * u)[..., None] * B[:, :, None]
    state, outputs = torch.zeros_like(decay[:, 0]), []
    for t in range(u.shape[1]):
        state = decay[:, t] * state + gain[:, t]
        outputs.append(torch.einsum("bdn,bn->bd", state, C[:, t]))
    return torch.stack(outputs, 1) + D * u


def easy(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int = 64) -> Tensor:
    """Chunks of 64 steps, in each the sums of what entered over the decay since then."""
    state, outputs = 0.0, []
    for t in range(0, u.shape[1], chunk):
        steps = slice(t, t + chunk)
        since = torch.cumsum(delta[:, steps], 1)[..., None] * A
        scale = since.exp()
        gain = (delta[:, steps] * u[:, steps])[..., None] * B[:, steps, None]
        states = scale * (torch.cumsum(gain / scale, 1) + (state[:, None] if t else 0.0))
        outputs.append(torch.einsum("bldn,bln->bld", states, C[:, steps]))
        state = states[:, -1]
    return torch.cat(outputs, 1) + D * u


def parallel(pscan: Scan, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """As mambapy's own block calls its scan."""
    decay = torch.exp(delta[..., None] * A)
    gain = delta[..., None] * B[:, :, None] * u[..., None]
    states = pscan(decay, gain)
    return (states @ C[..., None]).squeeze(3) + D * u


if __name__ == "__main__":
    main()
