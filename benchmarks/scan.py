"""The selective scan beside what people have today, and beside the arithmetic limit of the processor.

    python benchmarks/scan.py [--json FILE] [--rounds 5] [--device cpu] [--sizes 4096x192x16 ...] [--fresh]

Contenders, on the same inputs in one run, their rounds interleaved, medians: `mambino`; `chunked`, our form in plain
torch; `loop`, a loop over the steps as mamba_ssm's reference has it, and `loop by token`, the same on [b l d n],
where the numbers of a step lie side by side; `easy`, the form of VMamba that divides by cumulative decays over chunks
of 64; `mambapy`, the parallel scan of that package (`pip install 'mambino[bench]'`). One that would need more than
`--memory`, or by the size before more than `--patience` seconds, is left out and said so. `floor`: vector
instructions of the forward inner loop, counted, over the rate at which this processor issues multiply-adds, measured;
it has no backward form. Freed memory is kept, for all, as `mambino train` and `predict` do; `--fresh` leaves it to
the C library.
"""

import argparse
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from instruments.measuring import HEADER, Row, describe, interleaved, resident, rows_of, timed, write
from instruments.scan_forms import easy, loop, loop_by_token
from torch import Tensor

from mambino.nn.device import keep_allocations
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
    parser.add_argument("--fresh", action="store_true", help="let the C library hand memory back after every call")
    options = parser.parse_args()
    describe(options.device)
    if options.device == "cuda":
        rates()
    if options.device == "cpu" and not native.missing():
        rate, isa = native.issue_rate(), native.instruction_set()
        print(f"{isa}: {rate / 1e9:.2f} G multiply-adds of vectors a second; {INSTRUCTIONS[isa]} instructions a step")
    peaks = {} if options.device == "cuda" else peaks_of(options)
    if not options.fresh:
        keep_allocations()
    print(HEADER.format("tokens x channels x states", "mambino"))
    rows: list[Row] = []
    for threads in options.threads if options.device == "cpu" else [1]:
        torch.set_num_threads(threads)
        pace: dict[tuple[str, str], float] = {}
        for case in options.sizes:
            rows += measured(case, threads, options, pace, peaks)
    write(rows, options.json)


def peaks_of(options: argparse.Namespace) -> dict[tuple[str, str, str], float]:
    """Return the memory that each contender takes at its peak, inputs not counted (MB); before any is kept."""
    peaks, pace = {}, {}
    for case in options.sizes:
        inputs, work = sized(case, options)
        for direction in ("forward", "both"):
            for name, scan in able(case, work, direction, options, pace).items():
                before = resident(reset=True)
                elapsed = timed(lambda s=scan, d=direction, x=inputs: once(s, x, d))
                peaks[case, direction, name] = resident() - before
                pace[name, direction] = elapsed / work
    return peaks


def measured(
    case: str,
    threads: int,
    options: argparse.Namespace,
    pace: dict[tuple[str, str], float],
    peaks: dict[tuple[str, str, str], float],
) -> list[Row]:
    """Measure one size forward and both ways; `pace` remembers the seconds a number of state."""
    inputs, work = sized(case, options)
    rows: list[Row] = []
    for direction in ("forward", "both"):
        chosen = able(case, work, direction, options, pace, say=True)
        calls = {name: partial(once, scan, inputs, direction) for name, scan in chosen.items()}
        times = interleaved(calls, options.rounds, options.device)
        pace |= {(name, direction): min(found) / work for name, found in times.items()}
        if options.device == "cuda":
            times |= {name: [seconds] for name, seconds in bounds(case, direction, options.batch).items()}
        elif direction == "forward" and not native.missing():
            times["floor"] = [floor(work) / threads]
        known = {name: peaks[case, direction, name] for name in chosen if (case, direction, name) in peaks}
        rows += rows_of(case, direction, threads, times, known, "mambino")
    return rows


def sized(case: str, options: argparse.Namespace) -> tuple[dict[str, Tensor], int]:
    """Return the inputs of a size, and how many numbers of state they have."""
    length, channels, size = map(int, case.split("x"))
    return make(options.batch, length, channels, size, options.device), options.batch * length * channels * size


def able(
    case: str,
    work: int,
    direction: str,
    options: argparse.Namespace,
    pace: dict[tuple[str, str], float],
    *,
    say: bool = False,
) -> dict[str, Scan]:
    """Return the contenders that have the memory for a size, and by the sizes before are quick enough."""
    chosen, length = {}, int(case.split("x", maxsplit=1)[0])
    for name, scan in contenders().items():
        needs = 4 * work * STATES_KEPT[name] * (3 if direction == "both" else 1) / 2**30
        expected = pace.get((name, direction), 0.0) * work
        squared = name.startswith("loop") and direction == "both" and length > LOOP_BACK
        if needs <= options.memory and expected <= options.patience and not squared:
            chosen[name] = scan
        elif say:
            why = "grows with the square of the length" if squared else f"{needs:.1f} GiB, {expected:.0f} s"
            print(f"| {case} | {direction} | | {name} | left out: {why} | | |")
    return chosen


def floor(work: int) -> float:
    """Return the least time that the arithmetic of so many numbers of state takes on one thread (s)."""
    isa = native.instruction_set()
    return work / LANES[isa] * INSTRUCTIONS[isa] / native.issue_rate()


@cache
def rates() -> tuple[float, float]:
    """Return bytes and exponentials that the GPU can do in a second, and print them."""
    from instruments.gpu import bandwidth, exponentials

    found = bandwidth(), exponentials()
    print(f"{found[0] / 1e12:.2f} TB and {found[1] / 1e12:.2f} T exponentials a second")
    return found


def bounds(case: str, direction: str, batch: int) -> dict[str, float]:
    """Return the least times that a GPU takes to move what has to be moved, and for one exponential a decay (s).

    Forward moves u, delta, B, C and y. The way back moves all of them again, a gradient in the place of y, and the
    gradients of the other four; it needs the decays again, as they are not kept.
    """
    length, channels, size = map(int, case.split("x"))
    tokens, ways = batch * length, 2 if direction == "both" else 1
    moved = 4 * tokens * (3 * channels + 2 * size)
    moved += 4 * tokens * (5 * channels + 4 * size) if direction == "both" else 0
    bandwidth, exponentials = rates()
    return {
        "floor: bytes": moved / bandwidth,
        "floor: exponentials": ways * tokens * channels * size / exponentials,
    }


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


def once(scan: Scan, inputs: dict[str, Tensor], direction: str) -> None:
    """Call a scan, with its way back if asked for."""
    if direction == "forward":
        with torch.no_grad():
            scan(**inputs)
    else:
        y = scan(**inputs)
        torch.autograd.grad(y, list(inputs.values()), torch.ones_like(y))


def contenders() -> dict[str, Scan]:
    """Return what there is to compare here."""
    found: dict[str, Scan] = {
        "mambino": ours,
        "chunked": chunked,
        "loop": loop,
        "loop by token": loop_by_token,
        "easy": easy,
    }
    try:
        from mambapy.pscan import pscan  # type: ignore[import-untyped]
    except ImportError:
        return found
    return found | {"mambapy": lambda **inputs: parallel(pscan, **inputs)}


LOOP_BACK = 1024
"""Tokens up to which the loop is taken back: each step's gradient is as large as the sequence, minutes at 4096."""
STATES_KEPT = {"mambino": 0.1, "chunked": 0.2, "loop": 4.0, "loop by token": 3.0, "easy": 4.0, "mambapy": 4.0}
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


def parallel(pscan: Scan, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """As mambapy's own block calls its scan."""
    decay = torch.exp(delta[..., None] * A)
    gain = delta[..., None] * B[:, :, None] * u[..., None]
    states = pscan(decay, gain)
    return (states @ C[..., None]).squeeze(3) + D * u


if __name__ == "__main__":
    main()
